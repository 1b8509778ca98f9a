"""What is checked before torch is imported, so that a job fails in its first second, by name."""

from __future__ import annotations

from pathlib import Path

from fastdllm.common.errors import UserError
from fastdllm.evaluation.failures import failure_record
from fastdllm.evaluation.finished import finished_summary, is_dated_for_a_repeat
from fastdllm.evaluation.lock import run_lock, shard_lock
from fastdllm.evaluation.shards import Shard, lock_path, places
from fastdllm.evaluation.spec import RunSpec
from fastdllm.fetching.fetched import require_fetched


def check_needs(
    spec: RunSpec, folder: Path, shard: Shard | None = None, *, again: bool = False
) -> None:
    """Refuse a run whose model or data is not on this machine; jobs run without a network.

    A run that has its result needs neither, unless it is to be decoded `again`.

    Raises:
        UserError: what is missing, and what brings it; failed.json tells it as well.
    """
    try:
        require_fetched(spec)
    except UserError:
        is_done = finished_summary(folder, spec) is not None
        if is_done and not again and not is_dated_for_a_repeat(folder):
            return
        lock = run_lock(folder) if shard is None else shard_lock(folder, lock_path(folder, shard))
        with lock, failure_record(places(folder, spec, shard)):
            raise


def check_threads(asked: int | None) -> None:
    """Refuse a number of threads below 1.

    Raises:
        UserError: it is one.
    """
    if asked is not None and asked < 1:
        raise UserError(f"--threads {asked}: must be at least 1")
