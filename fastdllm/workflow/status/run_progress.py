"""How far a run is: the numbers of its progress.json files added up, and in words.

A file may hold anything, so each number is checked.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from fastdllm.common.console import duration
from fastdllm.runs.decoder_code import code_digest
from fastdllm.runs.shards import Shard
from fastdllm.tasks.plan import planned_sizes
from fastdllm.workflow.status.run_files import Part, RunFiles

# Stored items that were decoded by other code than this.
OTHER_CODE = "items_of_other_code"


def progress_of(files: RunFiles, alive: Collection[Part] = ()) -> Mapping[str, Any] | None:
    """Return the numbers of a run over all its parts, None if there are none.

    A finished shard has left no numbers; its items are those of its chunks.

    Args:
        alive: the parts that are at work, whose speeds count.
    """
    if not files.shards:
        return files.whole.progress
    recorded = [part.progress for part in files.parts if part.progress is not None]
    if not recorded and not any(part.is_done for part in files.shards):
        return None
    sizes = planned_sizes(files.run.plan_folder) or []
    finished = sum(_items_of(part.shard, sizes) for part in files.shards if part.is_done)
    states = {record.get("state") for record in recorded}
    record: dict[str, Any] = {
        "items_done": finished + round(_sum(recorded, "items_done")),
        "items_total": sum(sizes) or finished + round(_sum(recorded, "items_total")),
        "state": states.pop() if len(states) == 1 else "decoding",
    }
    if recorded and all(is_number(numbers.get("items_stored")) for numbers in recorded):
        record["items_stored"] = finished + round(_sum(recorded, "items_stored"))
    running = [part.progress for part in alive if part.progress is not None]
    if any("tokens_per_s" in numbers for numbers in running):
        record["tokens_per_s"] = round(_sum(running, "tokens_per_s"), 2)
    left_s = [n["time_left_s"] for n in running if is_number(n.get("time_left_s"))]
    if left_s:
        record["time_left_s"] = max(left_s)
    return record


def progress_in_words(progress: Mapping[str, Any]) -> str:
    """Return items, speeds and time left in one line, as far as they are known."""
    counts = item_counts(progress)
    if counts is None:
        return "progress unknown"
    parts = [f"{counts[0]} of {counts[1]} items"]
    if OTHER_CODE in progress:
        parts.append(f"{progress[OTHER_CODE]} by other code do not count")
    for key, unit in (("tokens_per_s", "tokens/s"), ("tokens_per_forward", "tokens/forward")):
        if is_number(progress.get(key)):
            parts.append(f"{progress[key]:.1f} {unit}")
    if is_number(progress.get("time_left_s")):
        parts.append(f"{duration(progress['time_left_s'])} left")
    if isinstance(progress.get("state"), str) and progress["state"] != "decoding":
        parts.append(progress["state"])
    return ", ".join(parts)


def stored_progress(files: RunFiles) -> Mapping[str, Any] | None:
    """Return the progress of a run that is not at work: the items whose answers are stored.

    Its speeds no longer count, nor do answers of a chunk that was in flight, nor those of other
    code, which the next process keeps aside.
    """
    progress = progress_of(files)
    if progress is None:
        return None
    record = {key: progress[key] for key in ("items_done", "items_total") if key in progress}
    if "items_stored" in progress:
        record["items_done"] = progress["items_stored"]
    counts = item_counts(record)
    if counts is not None and (others := _items_of_other_code(files, *counts)):
        record |= {"items_done": max(counts[0] - others, 0), OTHER_CODE: others}
    return record


def _items_of_other_code(files: RunFiles, done: int, total: int) -> int:
    """Return how many of the stored items will not be used."""
    parts = [part for part in files.parts if part.is_done or part.progress is not None]
    codes = {part.code for part in parts}
    if codes == {None} or (done == total and len(codes) == 1):
        return 0  # not recorded; or all are there, and only their score is missing
    sizes = planned_sizes(files.run.plan_folder) or []
    others = (part for part in parts if part.code not in (None, code_digest()))
    return sum(_stored_items(part, sizes) for part in others)


def _stored_items(part: Part, sizes: Sequence[int]) -> int:
    if part.is_done:
        return _items_of(part.shard, sizes)
    items = (part.progress or {}).get("items_stored", 0)
    return round(items) if is_number(items) else 0


def item_counts(progress: Mapping[str, Any] | None) -> tuple[int, int] | None:
    """Return the items done and all items, None if not recorded."""
    done, total = (progress or {}).get("items_done"), (progress or {}).get("items_total")
    return (done, total) if isinstance(done, int) and isinstance(total, int) else None


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def _items_of(shard: Shard | None, sizes: Sequence[int]) -> int:
    return 0 if shard is None else sum(sizes[index] for index in shard.chunks(len(sizes)))


def _sum(records: Iterable[Mapping[str, Any]], key: str) -> float:
    return sum(record[key] for record in records if is_number(record.get(key)))
