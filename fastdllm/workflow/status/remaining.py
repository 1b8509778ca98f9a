"""The numbers of a progress.json in words; a file may hold anything, so each is looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard


def in_words(progress: Mapping[str, Any]) -> str:
    """Items, speeds and time left in one line, as far as they are known."""
    counts = items(progress)
    if counts is None:
        return "progress unknown"
    parts = [f"{counts[0]} of {counts[1]} items"]
    for key, unit in (("tokens_per_s", "tokens/s"), ("tokens_per_forward", "tokens/forward")):
        if is_number(progress.get(key)):
            parts.append(f"{progress[key]:.1f} {unit}")
    if is_number(progress.get("time_left_s")):
        parts.append(f"{clock(progress['time_left_s'])} left")
    if isinstance(progress.get("state"), str) and progress["state"] != "decoding":
        parts.append(progress["state"])
    return ", ".join(parts)


def kept(progress: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """What counts of the progress of a run that is not at work: its speed was yesterday's.

    Of a chunk in flight nothing is kept.
    """
    if progress is None:
        return None
    record = {key: progress[key] for key in ("items_done", "items_total") if key in progress}
    if "items_stored" in progress:
        record["items_done"] = progress["items_stored"]
    return record


def items(progress: Mapping[str, Any] | None) -> tuple[int, int] | None:
    """Items done, of how many."""
    done, total = (progress or {}).get("items_done"), (progress or {}).get("items_total")
    return (done, total) if isinstance(done, int) and isinstance(total, int) else None


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a number that can be shown; a file may hold anything."""
    return isinstance(value, int | float) and math.isfinite(value)


def clock(seconds: float) -> str:
    """Seconds as `3:05` or `2:07:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
