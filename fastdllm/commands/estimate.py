"""`fastdllm estimate`: hours and GPU-hours of what is to be made, before it is submitted.

Items left times measured seconds per item, on the GPU that is asked for: from a run's own finished
chunks, earlier runs, or a probe, and the table says which. With --probe it measures on this machine
first, for about two minutes. What is not known is said by name, never guessed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastdllm.common.errors import UserError
from fastdllm.common.files import to_json, write_text_atomically
from fastdllm.tools.estimate.budget import budget_of
from fastdllm.tools.estimate.budget_text import Question, as_record, as_text
from fastdllm.tools.estimate.estimates import Estimate, Estimates
from fastdllm.tools.estimate.hardware import WORKFLOW_THREADS, Hardware
from fastdllm.workflow.prepare import gpu_of
from fastdllm.workflow.project.runs import Project, TaskPlan, load_project
from fastdllm.workflow.project.selection import Selection
from fastdllm.workflow.shared_computations import assign_leaders
from fastdllm.workflow.splitting import split_into_jobs
from fastdllm.workflow.status.queue import read_queue
from fastdllm.workflow.status.run_status import RunStatus, State, inspect

if TYPE_CHECKING:
    from fastdllm.tools.estimate.probing import Probed

MINUTES = 2.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Options: the words of Snakemake's `--config`, and what to estimate for."""
    for kind in ("experiment", "task", "config"):
        parser.add_argument(f"--{kind}", metavar="NAME[,NAME]", help=f"only this {kind}")
    parser.add_argument("--limit", metavar="N", help="the trial runs over the first N items")
    parser.add_argument(
        "--gpu",
        metavar="KIND",
        help="kind of GPU, such as RTX_6000 (default: cluster.gpu of workflow_config.yaml, else "
        "the hardware of this machine)",
    )
    parser.add_argument(
        "--profile", type=Path, metavar="FOLDER", help="for the GPU that the jobs of it ask for"
    )
    parser.add_argument(
        "--jobs", type=_count, default=1, metavar="N", help="jobs at a time (default: 1)"
    )
    parser.add_argument(
        "--all", action="store_true", help="all runs from the start, those that are done as well"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--probe", action="store_true", help="measure here first, what was not measured before"
    )
    parser.add_argument(
        "--minutes",
        type=_minutes,
        metavar="M",
        help=f"with --probe: for about so long (default: {MINUTES:g})",
    )
    parser.add_argument(
        "--threads",
        type=_count,
        default=WORKFLOW_THREADS,
        metavar="N",
        help=f"CPU threads of a run (default: {WORKFLOW_THREADS}, as in the workflow)",
    )


def run(args: argparse.Namespace) -> int:
    """Print what the selected runs cost, after a probe where one is asked for."""
    if args.minutes is not None and not args.probe:
        raise UserError("--minutes: says how long --probe measures; give both")
    if args.probe and args.gpu is not None:
        raise UserError("--gpu: --probe measures the hardware it runs on; leave --gpu out")
    if args.profile is not None and (args.probe or args.gpu is not None):
        other = "--probe" if args.probe else "--gpu"
        raise UserError(f"--profile: says which GPU, as does {other}; give one of them")
    options = {key: getattr(args, key) for key in ("experiment", "task", "config", "limit")}
    selection = Selection.from_options({k: v for k, v in options.items() if v is not None})
    project = load_project(selection)
    gpu = args.gpu or project.config.cluster.gpu
    if args.profile is not None:
        gpu = gpu_of(args.profile, project.config)
    statuses = _statuses(project, from_the_start=args.all)
    # Copies of another run's result cost nothing; what has a job is submitted already.
    decoded = [s for s in statuses if s.is_to_be_made and s.leader is None and not s.is_adopted]
    busy = sum(status.state in (State.RUNNING, State.QUEUED) for status in statuses)
    if not decoded:
        told = f"; {busy} running or queued" if busy else " (--all estimates what is done as well)"
        sys.stdout.write(f"nothing is to be made{told}\n")
        return 0
    runs = [status.run for status in decoded]
    # With --all, chunks that are there count as not decoded.
    begun = [] if args.all else runs
    threads = args.threads
    if args.probe:
        before = Estimates.load(begun, threads=threads)
        found = _probe(project, [before.estimate(run, gpu=None) for run in runs], args)
        # As torch calls it, with the threads that there were.
        gpu, threads = (found.name, threads) if found.threads is None else (None, found.threads)
    estimates = Estimates.load(begun, threads=threads)
    budget = budget_of(
        [estimates.estimate(run, gpu=gpu) for run in runs], split_into_jobs(decoded, project.config)
    )
    asked = Question(
        hardware=str(estimates.hardware(runs[0], gpu)),
        model=project.config.model.path,
        dtype=project.config.model.dtype,
        jobs_at_once=args.jobs,
        busy=busy,
        gpu=gpu,
        profile=None if args.profile is None else str(args.profile),
    )
    if args.json:
        sys.stdout.write(json.dumps(as_record(budget, asked, estimates), indent=2) + "\n")
    else:
        sys.stdout.write(as_text(budget, asked, estimates))
    return 0


def _statuses(project: Project, *, from_the_start: bool) -> list[RunStatus]:
    """Of each selected run whether it is to be made, and decoded or copied."""
    if from_the_start:
        seen = {run.name: RunStatus(run, State.MISSING) for run in project.all_runs}
    else:
        queue = read_queue()
        seen = {run.name: inspect(run, jobs=queue) for run in project.all_runs}
    own = [seen[run.name] for run in project.runs]
    return assign_leaders(own, project, look=lambda run: seen[run.name])


def _probe(project: Project, found: Sequence[Estimate], args: argparse.Namespace) -> Hardware:
    """Measure here, keep what was measured, and return on what."""
    from fastdllm.machine.gpus import card_for
    from fastdllm.machine.process import use_allowed_threads
    from fastdllm.tasks.lm_eval_setup import lm_eval_environment
    from fastdllm.tools.estimate.probe_files import add_measurements
    from fastdllm.tools.estimate.probing import probe, rounds

    tasks = {estimate.run.task for estimate in found}
    for plan in project.plans:
        if plan.task in tasks:
            _make_plan(plan)
    minutes = MINUTES if args.minutes is None else args.minutes
    device = project.config.model.device
    # Not the card that a run has, which would slow down both.
    with card_for(device), lm_eval_environment(offline=True, private_cache=False):
        started, measured = time.monotonic(), 0
        use_allowed_threads(args.threads)
        for one in probe(rounds(found), seconds=60 * minutes):
            # At once: a probe that is stopped has measured what it has measured.
            path = add_measurements(one.hardware, one.measurement)
            measured += 1
            _tell(_line(one))
    _tell(f"{measured} of {len(found)} runs in {time.monotonic() - started:.0f} s -> {path}")
    if measured < len(found):
        _tell(f"no time for the others; type it again, or --minutes {2 * minutes:g}")
    return one.hardware


def _line(one: Probed) -> str:
    found = one.measurement
    return (
        f"{one.run.name}: {found.seconds / found.items:#.3g} s/item on {one.hardware} "
        f"({found.items} items, batch size {found.batch_size})"
    )


def _make_plan(plan: TaskPlan) -> None:
    """Make a plan that is missing or made from something else, as the workflow's plan rule does."""
    text = to_json(plan.spec())
    try:
        is_current = plan.made_from_path.read_text(encoding="utf-8") == text
    except OSError:
        is_current = False
    if is_current and plan.plan_path.exists():
        return
    _tell(f"planning {plan.task_folder}")
    write_text_atomically(plan.made_from_path, text)
    limit = [] if plan.limit is None else ["--limit", str(plan.limit)]
    command = [sys.executable, "-m", "fastdllm", "plan", "--task", plan.task, *limit]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        plan.made_from_path.unlink(missing_ok=True)
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(
            f"{plan.task_folder} cannot be planned: {reason.removeprefix('fastdllm: ')}"
        )


def _tell(text: str) -> None:
    sys.stderr.write(text + "\n")


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not allowed; it should be a whole number from 1"
        )
    return int(text)


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes <= 60:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; it should be a number up to 60")
    return minutes
