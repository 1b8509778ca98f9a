"""`fastdllm table`: the results of the enabled experiments, and what to try next.

Reads only summaries: those in results/, or else the published ones in artifacts/.
"""

from __future__ import annotations

import argparse
import shutil
import sys

from fastdllm.common.garbage import no_search_for_garbage

QUESTION = "Tom has 3 boxes with 12 pens each. He loses 9 pens. How many pens does Tom have?"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--experiment", action="append", help="only this one (may be repeated)")
    parser.add_argument("--limit", type=int, help="the runs over the first N items")


@no_search_for_garbage()
def run(args: argparse.Namespace) -> int:
    from fastdllm.common.errors import UserError
    from fastdllm.common.paths import ARTIFACTS
    from fastdllm.report.groups import grouped
    from fastdllm.report.text_tables import terminal_table
    from fastdllm.workflow.claim_results import current_results, withheld
    from fastdllm.workflow.project.artifacts import SummaryReader, current_summary
    from fastdllm.workflow.project.runs import load_project
    from fastdllm.workflow.project.selection import Selection, keep

    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit {args.limit}: must be at least 1; leave it out for full runs")
    project = load_project(Selection(limit=args.limit))
    chosen = keep("experiment", args.experiment, project.experiments, where="--experiment")
    summaries, problems, n_chosen, n_missing = [], [], 0, 0
    # Of all experiments: what one is compared with may be a run of another.
    by_name, read = {run.name: run for run in project.all_runs}, SummaryReader()
    for run in project.runs:
        stored, is_chosen = current_summary(run, by_name, read), run.experiment in chosen
        n_chosen += is_chosen
        n_missing += is_chosen and stored is None
        try:
            summaries += [stored.summary] if stored else []
        except UserError as error:
            problems += [f"not shown: {error}\n"] if is_chosen else []
    waiting = withheld(project, current_results(project, read))
    shown = [summary for summary in summaries if summary.task not in waiting]
    groups = [group for group in grouped(shown) if group.experiment in chosen]
    lines = []
    if groups:
        lines.append(terminal_table(groups, shutil.get_terminal_size().columns))
    of_chosen = {run.task for run in project.runs if run.experiment in chosen}
    lines += [f"{task}: {line}\n" for task, line in waiting.items() if task in of_chosen]
    lines += problems
    if n_missing:
        lines.append(
            f"{n_missing} of {n_chosen} runs have no result of the current settings; "
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
