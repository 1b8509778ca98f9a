"""`fastdllm status`: which runs are done, queued, running or failed, and what to type next.

Reads files and, on a cluster, asks squeue once: no torch, no Snakemake, nothing written; it needs
no running Snakemake. --watch draws the runs again every few seconds (status_watch.py).
"""

from __future__ import annotations

import argparse
import json
import sys

from fastdllm.commands.options import add_selection_options, selected
from fastdllm.commands.status_record import as_record
from fastdllm.commands.status_text import as_text
from fastdllm.commands.status_view import Accounts, look
from fastdllm.common.garbage import no_search_for_garbage
from fastdllm.workflow.project.runs import load_project
from fastdllm.workflow.project.selection import Selection

WATCH_S = 5.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Options: the words of Snakemake's `--config`, --json and --watch."""
    add_selection_options(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print one JSON object")
    how.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=WATCH_S,
        metavar="SECONDS",
        help=f"draw it again every {WATCH_S:.0f} s, until nothing runs or waits",
    )


def run(args: argparse.Namespace) -> int:
    """Print the status of the selected runs."""
    options, accounts = selected(args), Accounts()
    selection = Selection.from_options(options)
    if args.watch is not None:
        from fastdllm.commands.status_watch import watch

        project = load_project(selection)
        return watch(lambda: look(project, options, accounts), every_s=args.watch)
    with no_search_for_garbage():
        project = load_project(selection)
        view = look(project, options, accounts)
    if args.json:
        record = as_record(
            view.statuses,
            view.next_command,
            view.alarms,
            mains=view.mains,
            queue=view.queue,
            config=project.config,
            notices=view.notices,
            speeds=view.speeds,
        )
        text = json.dumps(record, indent=2) + "\n"
    else:
        text = as_text(
            view.statuses,
            view.next_command,
            view.alarms,
            notes=view.notes,
            mains=view.mains,
            config=project.config,
            notices=view.notices,
            speeds=view.speeds,
            color=sys.stdout.isatty(),
        )
    sys.stdout.write(text)
    return 0
