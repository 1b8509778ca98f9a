"""Continuous against fixed batches on requests of mixed length, timed in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from fastdllm.decoding.sequence import Request
from fastdllm.tools.bench.batches import Bench
from fastdllm.tools.bench.floor import Floor, floor_of
from fastdllm.tools.bench.timing import TimedRun, interleaved, timed_run


def compare_mixed(
    bench: Bench, requests: Sequence[Request], batch: int, floor: Floor
) -> dict[str, Any]:
    """Continuous batching over fixed batches, for requests of mixed length.

    Fixed batches start together and wait for their slowest answer; both run `batch` slots, and no
    rows of answers that are finished. So continuous batching makes fewer passes with more rows.
    The ratio of their floors is what the hardware allows to gain.
    """
    fixed = [requests[start : start + batch] for start in range(0, len(requests), batch)]

    def run(groups: Sequence[Sequence[Request]]) -> TimedRun:
        return timed_run(bench.model, groups, bench.policy, slots=batch)

    continuous, waiting = _timed(bench, lambda: run([requests]), lambda: run(fixed))
    return {
        "batch": batch,
        "requests": len(requests),
        "tokens": continuous[0].tokens,
        "passes_continuous": len(continuous[0].passes),
        "passes_fixed": len(waiting[0].passes),
        "tokens_per_s_continuous": _speed(continuous),
        "tokens_per_s_fixed": _speed(waiting),
        "ratio": _speed(continuous) / _speed(waiting),
        "ratio_of_floors": (
            floor_of(waiting[0].passes, floor).seconds
            / floor_of(continuous[0].passes, floor).seconds
        ),
    }


def _timed(
    bench: Bench, one: Callable[[], TimedRun], other: Callable[[], TimedRun]
) -> tuple[list[TimedRun], list[TimedRun]]:
    """Timed runs of both, in turn, after an untimed one of each."""
    variants = {"one": one, "other": other}
    interleaved(variants, 1, bench.tick)
    timed = interleaved(variants, bench.repeats, bench.tick)
    return timed["one"], timed["other"]


def _speed(runs: Sequence[TimedRun]) -> float:
    return median(run.tokens_per_s for run in runs)
