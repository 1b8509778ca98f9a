"""`fastdllm table`: the results of the enabled experiments, and what to try next.

Reads only summaries: those in results/, or else the published ones in artifacts/.
"""

from __future__ import annotations

import argparse
import shutil
import sys

QUESTION = "Tom has 3 boxes with 12 pens each. He loses 9 pens. How many pens does Tom have?"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--experiment", action="append", help="only this one (may be repeated)")
    parser.add_argument("--limit", type=int, help="the runs over the first N items")


def run(args: argparse.Namespace) -> int:
    from fastdllm.common.errors import UserError
    from fastdllm.common.paths import ARTIFACTS
    from fastdllm.report.groups import grouped
    from fastdllm.report.text_tables import terminal_table
    from fastdllm.results.summary import read_summary
    from fastdllm.workflow.project.artifacts import current_summary
    from fastdllm.workflow.project.runs import load_project
    from fastdllm.workflow.project.selection import Selection, keep

    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit {args.limit}: must be at least 1; leave it out for full runs")
    project = load_project(Selection(limit=args.limit))
    chosen = keep("experiment", args.experiment, project.experiments, where="--experiment")
    runs = [run for run in project.runs if run.experiment in chosen]
    paths = [path for run in runs if (path := current_summary(run, project.all_runs))]
    summaries, problems, missing = [], [], len(runs) - len(paths)
    for path in paths:
        try:
            summaries.append(read_summary(path))
        except UserError as error:
            problems.append(f"not shown: {error}\n")
    lines = []
    if summaries:
        lines.append(terminal_table(grouped(summaries), shutil.get_terminal_size().columns))
    lines += problems
    if missing:
        lines.append(
            f"{missing} of {len(runs)} runs have no result of the current settings; "
            "`fastdllm status` says why.\n"
        )
    tables = [ARTIFACTS / name / "table.md" for name in chosen]
    tables = [path for path in tables if path.is_file()]
    if tables:
        lines.append(f"tables:    {', '.join(map(str, tables))} (and .csv beside each)")
    lines.append("every run: results/<experiment>/<task>/<config>/ (answers, samples, summary)")
    program = "fastdllm" if shutil.which("fastdllm") else ".venv/bin/fastdllm"
    lines += [
        "\nTry next:",
        f'  {program} generate "{QUESTION}" --show-steps',
        f"  {program} status",
        f"  {program} new-experiment my_idea",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
