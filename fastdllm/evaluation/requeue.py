"""What follows on a stop: the job goes back into SLURM's queue, unless that would never end."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fastdllm.cluster.slurm import SlurmError, requeue
from fastdllm.common.errors import UserError
from fastdllm.evaluation.attempts import Journal, attempt, is_stuck
from fastdllm.evaluation.stopping import RESUME_EXIT_CODE, Stop, Stopped, stopped_by_signals


class Stuck(UserError):
    """A run that would be requeued for ever."""


@contextmanager
def guarded_attempt(
    folder: Path, *, shard: str | None = None, pack: str | None = None
) -> Iterator[Journal]:
    """An entry in the journal of a run; a job that never gets anywhere fails instead of stopping.

    Raises:
        Stuck: this attempt and the one before it met the time limit, each without a chunk.
    """
    try:
        with attempt(folder, shard=shard, pack=pack) as journal:
            yield journal
    except Stopped as stopped:
        stopped.has_begun = True
        if stopped.is_time_limit and _slurm_job() and is_stuck(folder, shard):
            raise Stuck(
                f"{folder}: two attempts in a row ended at the time limit without finishing a "
                "chunk; ask for a longer runtime, or set a smaller chunk_size for the task in "
                "workflow_config.yaml"
            ) from None
        raise


def until_stopped(work: Callable[[Stop], int]) -> int:
    """The exit code of `work`, or what a signal makes of it.

    To be called first of all: until then a signal kills without a word.

    Raises:
        UserError: of the work, or FASTDLLM_WARNING_S is no positive number.
    """
    with stopped_by_signals() as stop:
        try:
            return work(stop)
        except Stopped as stopped:
            # From here on the handlers only note signals: nothing cuts this short.
            return end_of(stopped, was_terminated=stop.was_terminated)


def end_of(stopped: Stopped, *, was_terminated: bool) -> int:
    """Say that the process was stopped, send its SLURM job back where that is due; the exit code.

    Only the time limit is answered with a requeue: after a preemption or a dead node SLURM does it
    by itself, and a job that a person cancelled is to stay so, at whatever moment SIGTERM said it
    (`was_terminated`). Nor is a job sent back that met the limit before it came to its run, which
    could go on for ever. SLURM ends the job at once.
    """
    _say(stopped.sentence)
    job = _slurm_job()
    if stopped.is_time_limit and not was_terminated and job and stopped.has_begun:
        _say(f"SLURM job {job} goes back into the queue")
        try:
            requeue(job)
        except SlurmError as error:
            _say(f"it does not ({error}); the same command submits it again")
    return RESUME_EXIT_CODE


def _say(line: str) -> None:
    sys.stderr.write(f"fastdllm: {line}\n")
    sys.stderr.flush()


def _slurm_job() -> str:
    return os.environ.get("SLURM_JOB_ID", "")
