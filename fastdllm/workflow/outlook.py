"""When all runs that wait or are at work are expected to be done, at the present speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fastdllm.workflow.status.remaining import is_number, items
from fastdllm.workflow.status.status import RunStatus, State
from fastdllm.workflow.status.traces import planned_chunks


def seconds_left(statuses: Sequence[RunStatus]) -> float | None:
    """Seconds until the last of them is done; None while that cannot be told.

    The items of those that wait are shared out at the speed of those at work, as if as many as now
    were going to be at work all the time.
    """
    running = [status for status in statuses if status.state is State.RUNNING]
    waiting = [status for status in statuses if status.state is State.QUEUED]
    told_s = [(status.progress or {}).get("time_left_s") for status in running]
    own_s = [seconds for seconds in told_s if is_number(seconds)]
    if not running or len(own_s) < len(running):
        return None
    if not waiting:
        return max(own_s)
    totals = _planned_items(waiting)
    left = [_items_left(status, totals) for status in (*running, *waiting)]
    if None in left:
        return None
    known = [count for count in left if count is not None]
    at_work = zip(known, own_s, strict=False)
    items_per_s = sum(count / seconds for count, seconds in at_work if seconds > 0)
    return max(*own_s, sum(known) / items_per_s) if items_per_s > 0 else None


def _planned_items(statuses: Sequence[RunStatus]) -> Mapping[Path, int]:
    """The items of the tasks of these runs, by the folder of the plan, where it is made."""
    runs = {status.run.plan_folder: status.run for status in statuses}
    sizes = {folder: sum(planned_chunks(run)) for folder, run in runs.items()}
    return {folder: size for folder, size in sizes.items() if size}


def _items_left(status: RunStatus, totals: Mapping[Path, int]) -> int | None:
    known = items(status.progress)
    return known[1] - known[0] if known is not None else totals.get(status.run.plan_folder)
