"""`fastdllm report`: the published results as one page, as plots and as one table.

Reads artifacts/, and the samples in results/, if they are there, for the items that flipped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fastdllm.common.paths import ARTIFACTS, RESULTS

if TYPE_CHECKING:
    from fastdllm.report.content import Report

OUTPUT = ARTIFACTS / "report.html"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--experiment", action="append", help="only this one (may be repeated)")
    parser.add_argument(
        "--output",
        type=Path,
        default=OUTPUT,
        metavar="FILE.html",
        help=f"the page; plots/ and comparisons.csv go beside it (default: {OUTPUT})",
    )


def run(args: argparse.Namespace) -> int:
    """Write the page, the plots and the table, and print where they are."""
    from fastdllm.common.errors import UserError
    from fastdllm.common.files import write_text_atomically
    from fastdllm.report.content import build_report
    from fastdllm.report.csv_tables import csv_table
    from fastdllm.report.page import render_page
    from fastdllm.report.plot_files import write_plots
    from fastdllm.report.sensitivity_map import newest
    from fastdllm.workflow.claim_results import claims_of, published_results, withheld
    from fastdllm.workflow.project.artifacts import SummaryReader, published
    from fastdllm.workflow.project.runs import load_project
    from fastdllm.workflow.project.selection import keep
    from fastdllm.workflow.speed_states import measured_speeds

    if args.output.suffix != ".html":
        raise UserError(f"--output {args.output}: the name of a page must end in .html")
    project = load_project()
    chosen = keep("experiment", args.experiment, project.experiments, where="--experiment")
    summaries, problems, read = [], [], SummaryReader()
    for published_run in published(project.runs, read):
        try:
            summaries.append(read(published_run.artifact_path).summary)
        except UserError as error:
            problems.append(f"not shown: {error}")
    sensitivity, unreadable = newest(
        list((ARTIFACTS / "sensitivity").glob("*.json")),
        project.config.model,
        project.runs[0].decides,
        {str(commit) for run in summaries if (commit := run.eval_params.get("model_commit"))},
    )
    problems += unreadable
    done = published_results(project, read)
    report = build_report(
        summaries,
        experiments=chosen,
        titles={name: experiment.question for name, experiment in project.experiments.items()},
        missing=len(project.runs) - len(summaries),
        sensitivity=sensitivity,
        results=RESULTS,
        speeds=measured_speeds(project, published=True),
        claims=list(claims_of(project, done).values()),
        withheld=withheld(project, done),
    )
    folder = args.output.parent
    page = render_page(report)
    plots = write_plots(report, folder / "plots")
    table = csv_table(report.groups, report.runs)
    write_text_atomically(folder / "comparisons.csv", table)
    # Last: Snakemake, which removed the old one, takes a page that is there for a finished report.
    write_text_atomically(args.output, page)
    lines = [
        *(f"ALARM: {alarm}" for alarm in report.alarms),
        *problems,
        f"wrote {args.output} ({len(report.summaries)} runs, {len(page.encode()) / 1e6:.1f} MB), "
        f"{folder / 'comparisons.csv'} and {len(plots)} plots in {folder / 'plots'}",
        *gaps(report),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def gaps(report: Report) -> list[str]:
    """Return what the page lacks, one line each: items that flipped, runs without a result."""
    lines = []
    unread, flipped = report.missing_answers
    if unread:
        lines.append(
            f"items that flipped are left out in {unread} of {flipped} comparisons: their samples "
            "are not in results/, or belong to another result"
        )
    if report.missing:
        runs = "1 run has" if report.missing == 1 else f"{report.missing} runs have"
        lines.append(f"{runs} no published result: `fastdllm status`")
    return lines
