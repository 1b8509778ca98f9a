"""Which jobs were stopped though nothing was wrong with them, where SLURM takes none back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastdllm.cluster.following import Ending
from fastdllm.evaluation.attempts import read_attempts
from fastdllm.evaluation.stopping import TIME_LIMIT


def was_only_stopped(ending: Ending, outputs: Sequence[Path]) -> bool:
    """Whether a job was preempted, or stopped itself ahead of its time limit, in good order.

    One that would be stopped for ever without finishing a chunk fails by itself instead.

    Args:
        outputs: of the job, which tell the run, or the shard, whose journal counts.
    """
    if ending.state == "PREEMPTED":
        return True
    for output in outputs:
        is_shard = output.parent.name == "shards"
        folder = output.parents[1] if is_shard else output.parent
        shard = output.stem if is_shard else None
        own = [
            attempt
            for attempt in read_attempts(folder)
            if attempt.slurm_job == ending.job_id and attempt.shard == shard
        ]
        if own and own[-1].why == TIME_LIMIT:
            return True
    return False
