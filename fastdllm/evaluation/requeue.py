"""What follows on a stop: the job goes back into SLURM's queue, unless that would never end."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastdllm.cluster.slurm import SlurmError, requeue
from fastdllm.errors import UserError
from fastdllm.evaluation.attempts import Journal, attempt, is_stuck
from fastdllm.evaluation.stopping import RESUME_EXIT_CODE, Stopped


@contextmanager
def guarded_attempt(
    folder: Path, *, shard: str | None = None, pack: str | None = None
) -> Iterator[Journal]:
    """An entry in the journal of a run; a job that never gets anywhere fails instead of stopping.

    Raises:
        UserError: this attempt and the one before it met the time limit, each without a chunk.
    """
    try:
        with attempt(folder, shard=shard, pack=pack) as journal:
            yield journal
    except Stopped as stopped:
        if stopped.is_time_limit and _slurm_job() and is_stuck(folder, shard):
            raise UserError(
                f"{folder}: two attempts in a row ended at the time limit without finishing a "
                "chunk; ask for a longer runtime, or set a smaller chunk_size for the task in "
                "workflow_config.yaml"
            ) from None
        raise


def end_of(stopped: Stopped) -> int:
    """Say that the process was stopped, send its SLURM job back where that is due; the exit code.

    Only the time limit is answered with a requeue: after a preemption or a dead node SLURM does it
    by itself, and a job that a person cancelled is to stay so. Nor is a job sent back that met the
    limit before it came to its run, which could go on for ever. SLURM ends the job at once.
    """
    _say(stopped.sentence)
    job = _slurm_job()
    if stopped.is_time_limit and job and stopped.has_begun:
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
