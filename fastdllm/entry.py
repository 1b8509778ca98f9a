"""What the Snakefile calls: load, reconcile, tell what is going to happen.

The main Snakemake process reconciles; the processes of single jobs, which read the Snakefile again,
get an empty project and touch nothing. A user's mistake ends Snakemake with one line and code 2.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastdllm.cluster.checks import check_link
from fastdllm.cluster.choice import Choice
from fastdllm.common.errors import USER_ERROR_EXIT_CODE, UserError
from fastdllm.common.paths import RESULTS
from fastdllm.estimate.estimates import Estimates
from fastdllm.prepare import prepare
from fastdllm.runs.attempts import RESTARTS_VARIABLE
from fastdllm.runs.needs import require_data
from fastdllm.workflow.call import DEFAULT_MINUTES, Call, Minutes
from fastdllm.workflow.config import task_file
from fastdllm.workflow.cuts import cut, settle
from fastdllm.workflow.locks import held_outputs
from fastdllm.workflow.main_process import UNLOCK, claim_folder, refuse_overlap
from fastdllm.workflow.preview import made_by, preview
from fastdllm.workflow.queue import Queue, read_queue, refuse_ambiguous
from fastdllm.workflow.reconcile import reconcile
from fastdllm.workflow.runs import Run, load_project
from fastdllm.workflow.selection import Selection
from fastdllm.workflow.status import RunStatus, State
from fastdllm.workflow.targets import Request, check_targets


def open_call(options: Mapping[str, Any], *, is_main_process: bool, is_dry_run: bool) -> Call:
    """Select and reconcile the runs of this Snakemake call.

    Args:
        options: the words of `--config`.
    """
    if not is_main_process:
        # SLURM's warning of a time limit is for the eval, but reaches all processes of a job.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        if "SLURM_RESTART_COUNT" in os.environ:
            os.environ[RESTARTS_VARIABLE] = os.environ["SLURM_RESTART_COUNT"]
        return Call(planned=None)
    try:
        request = _request()
        if request.is_training_only:
            return Call()
        if UNLOCK in sys.argv[1:]:
            # The way out of a lock must not depend on anything else being in order.
            claim_folder(is_dry_run=False)
            return Call()
        return _planned_call(Selection.from_options(options), request, is_dry_run=is_dry_run)
    except UserError as error:
        sys.stderr.write(f"fastdllm: {error}\n")
        sys.exit(USER_ERROR_EXIT_CODE)


def _planned_call(selection: Selection, request: Request, *, is_dry_run: bool) -> Call:
    check_link(RESULTS)
    project = load_project(selection)
    check_targets(request, project)
    choice = prepare(
        project.config,
        selection.cluster,
        sys.argv[1:],
        is_dry_run=is_dry_run,
        folder=Path.cwd(),
    )
    if choice is not None:
        refuse_ambiguous(project.all_runs)
    claim_folder(is_dry_run=is_dry_run)
    queue = _queue(is_needed=choice is not None and not is_dry_run)
    statuses = reconcile(
        project,
        jobs=queue,
        restore=selection.restore,
        is_repeated=request.forces,
        is_wanted=request.wants,
        held=held_outputs(),
        is_dry_run=is_dry_run,
    )
    left_out = left_out_of(statuses, is_submitted=choice is not None)
    free = [status for status in statuses if status.run.name not in left_out]
    made = made_by(free, request)
    if not is_dry_run:
        refuse_overlap(str(status.run.summary_path) for status in made)
    decoded = [status for status in made if status.leader is None]
    if choice is not None and not is_dry_run:
        for task in sorted({status.run.task for status in decoded}):
            require_data(task_file(task))
    cuts = cut(decoded, project.config)
    settle(cuts, [status.run for status in decoded])
    text = choice.text if choice is not None else ""
    text += preview(statuses, made, request, cuts, left_out, is_dry_run=is_dry_run)
    if is_dry_run:
        # Snakemake lists every job; what people want to read comes after that.
        atexit.register(sys.stderr.write, text)
    else:
        sys.stderr.write(text)
    return Call(
        runs=tuple(status.run for status in free),
        planned=frozenset(str(s.run.summary_path) for s in free if s.is_to_be_made),
        leaders={str(s.run.summary_path): s.leader.folder for s in free if s.leader is not None},
        decoded={str(status.run.spec_path): status.run for status in decoded},
        cuts=cuts,
        parts=cuts.parts(status.run for status in decoded),
        minutes_of=_minutes([status.run for status in decoded], choice),
        most_minutes=(choice.max_minutes if choice is not None else None) or DEFAULT_MINUTES,
    )


def _minutes(runs: Sequence[Run], choice: Choice | None) -> Minutes | None:
    """Estimates of the time that jobs need; None where none is submitted, or to any GPU."""
    if choice is None or choice.gpu is None:
        return None
    estimates = Estimates.load(runs)
    gpu = choice.gpu
    return lambda runs, share, attempt: estimates.minutes_of_pack(
        runs, gpu=gpu, share=share, attempt=attempt
    )


def left_out_of(statuses: Sequence[RunStatus], *, is_submitted: bool) -> frozenset[str]:
    """The runs that somebody else is making, and those that are to be made from them.

    What a SLURM job of this project makes is followed by a call that submits such jobs itself.
    """
    busy = {
        status.run.name
        for status in statuses
        if status.state in (State.RUNNING, State.QUEUED)
        and not (is_submitted and status.is_adopted)
    }
    behind = {
        status.run.name
        for status in statuses
        if status.leader is not None and status.is_to_be_made and status.leader.name in busy
    }
    return frozenset(busy | behind)


def _queue(*, is_needed: bool) -> Queue | None:
    """What SLURM knows of this project's runs.

    Raises:
        UserError: squeue does not say, though it is needed.
    """
    # An answer of some seconds ago may lack a job that was submitted since.
    queue = read_queue(max_age_s=0.0)
    if is_needed and (queue is None or queue.problem):
        problem = queue.problem if queue is not None else "squeue: belongs to no cluster here"
        raise UserError(
            f"{problem}; without it nobody knows which runs have a job already; try again later"
        )
    return queue


def _request() -> Request:
    # Started through Snakemake's Python interface there is no command line to read.
    if Path(sys.argv[0]).name not in ("snakemake", "__main__.py"):
        return Request()
    return Request.from_command_line(sys.argv[1:])
