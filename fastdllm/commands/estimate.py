"""`fastdllm estimate`: hours and GPU-hours of what is to be made, before it is submitted.

Items left times measured seconds per item, on the GPU that is asked for: from a run's own finished
chunks or from earlier runs, whole or limited, or else from a speed that others published; the table
says which. What is not known is named, never guessed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from fastdllm.commands.options import add_selection_options, positive_int, selected
from fastdllm.common.errors import UserError
from fastdllm.tools.estimate.budget import budget_of
from fastdllm.tools.estimate.budget_text import BudgetQuestion, as_record, as_text
from fastdllm.tools.estimate.estimates import Estimates
from fastdllm.tools.estimate.hardware import WORKFLOW_THREADS
from fastdllm.workflow.prepare import gpu_of
from fastdllm.workflow.project.runs import Project, load_project
from fastdllm.workflow.project.selection import Selection
from fastdllm.workflow.shared_computations import assign_leaders
from fastdllm.workflow.splitting import split_into_jobs
from fastdllm.workflow.status.queue import read_queue
from fastdllm.workflow.status.run_status import RunStatus, State, inspect


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options: the keys of Snakemake's `--config`, and what to estimate for."""
    add_selection_options(parser)
    parser.add_argument(
        "--gpu",
        metavar="KIND",
        help="kind of GPU, such as RTX_6000 (default: cluster.gpu of workflow_config.yaml, else "
        "the hardware of this machine)",
    )
    parser.add_argument(
        "--profile", type=Path, metavar="FOLDER", help="for the GPU that its jobs ask for"
    )
    parser.add_argument(
        "--jobs", type=positive_int, default=1, metavar="N", help="jobs at a time (default: 1)"
    )
    parser.add_argument(
        "--all", action="store_true", help="all runs from the start, those that are done as well"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--threads",
        type=positive_int,
        default=WORKFLOW_THREADS,
        metavar="N",
        help=f"CPU threads of a run (default: {WORKFLOW_THREADS}, as in the workflow)",
    )


def run(args: argparse.Namespace) -> int:
    """Print what the selected runs cost."""
    if args.profile is not None and args.gpu is not None:
        raise UserError("--profile: says which GPU, as does --gpu; give one of them")
    project = load_project(Selection.from_options(selected(args)))
    gpu = args.gpu or project.config.cluster.gpu
    if args.profile is not None:
        gpu = gpu_of(args.profile, project.config, sorted({run.task for run in project.runs}))
    statuses = _statuses(project, from_the_start=args.all)
    # Copies of another run's result cost nothing; runs with a job are submitted already.
    decoded = [s for s in statuses if s.is_to_be_made and s.leader is None and not s.is_adopted]
    busy = sum(status.state in (State.RUNNING, State.QUEUED) for status in statuses)
    if not decoded:
        hint = f"; {busy} running or queued" if busy else " (--all estimates what is done as well)"
        sys.stdout.write(f"nothing is to be made{hint}\n")
        return 0
    runs = [status.run for status in decoded]
    # With --all, finished chunks count as not decoded.
    begun = [] if args.all else runs
    estimates = Estimates.load(begun, threads=args.threads)
    budget = budget_of(
        [estimates.estimate(run, gpu=gpu, takes_published=True) for run in runs],
        split_into_jobs(decoded, project.config),
    )
    query = BudgetQuestion(
        hardware=str(estimates.hardware(runs[0], gpu)),
        model=project.config.model.path,
        dtype=project.config.model.dtype,
        jobs_at_once=args.jobs,
        busy=busy,
        gpu=gpu,
        profile=None if args.profile is None else str(args.profile),
    )
    if args.json:
        sys.stdout.write(json.dumps(as_record(budget, query, estimates), indent=2) + "\n")
    else:
        sys.stdout.write(as_text(budget, query, estimates))
    return 0


def _statuses(project: Project, *, from_the_start: bool) -> list[RunStatus]:
    """Return, for each selected run, whether it is to be made, and decoded or copied."""
    if from_the_start:
        statuses = {run.name: RunStatus(run, State.MISSING) for run in project.all_runs}
    else:
        queue = read_queue()
        statuses = {run.name: inspect(run, jobs=queue) for run in project.all_runs}
    selected = [statuses[run.name] for run in project.runs]
    return assign_leaders(selected, project, look=lambda run: statuses[run.name])
