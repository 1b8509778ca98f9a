"""The floor of a run: the least time in which the device could run its passes.

On a CPU the matrix products alone (products_floor.py), on a GPU the bytes or operations at measured
rates (roofline.py). The share of the floor is its seconds over those of the run, 1 at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from fastdllm.decoding.events import PassRecord

Bound = Literal["products", "memory", "compute"]


@dataclass(frozen=True, slots=True)
class PassFloor:
    """Least seconds of one pass, and what bounds them."""

    seconds: float
    bound: Bound


class Floor(Protocol):
    """The least time of a pass on a device.

    most_passes: how many passes of a run it should be asked for.
    """

    most_passes: int

    def of_pass(self, record: PassRecord) -> PassFloor:
        """Least time of a pass of these shapes."""
        ...


@dataclass(frozen=True, slots=True)
class RunFloor:
    """Least seconds of all passes of a run.

    passes_timed: how many different passes it is based on. bound: what bounds most of the time.
    """

    seconds: float
    passes_timed: int
    bound: Bound


def floor_of(passes: Sequence[PassRecord], floor: Floor) -> RunFloor:
    """Return the floor of a run with `passes`, at least one."""
    seconds: dict[Bound, float] = {}
    chosen = representatives(passes, floor.most_passes)
    for record, weight in chosen:
        least = floor.of_pass(record)
        seconds[least.bound] = seconds.get(least.bound, 0.0) + weight * least.seconds
    return RunFloor(sum(seconds.values()), len(chosen), max(seconds, key=lambda b: seconds[b]))


def representatives(passes: Sequence[PassRecord], most: int) -> list[tuple[PassRecord, float]]:
    """Return at most `most` passes, each with the number of passes that it stands for.

    One per shape where there are so few shapes; else evenly spaced ones in the order of their work.
    """
    alike: dict[tuple[tuple[int, int, int], ...], list[PassRecord]] = {}
    for record in passes:
        shape = sorted((s.width, s.visible, s.read) for s in record.segments)
        alike.setdefault(tuple(shape), []).append(record)
    if len(alike) <= most:
        return [(same[0], len(same)) for same in alike.values()]
    ordered = sorted(passes, key=_work)
    count = len(ordered)
    picked = (ordered[(2 * index + 1) * count // (2 * most)] for index in range(most))
    return [(record, count / most) for record in picked]


def _work(record: PassRecord) -> tuple[int, int, int]:
    pairs = sum(segment.width * segment.visible for segment in record.segments)
    return record.rows, record.rows_read, pairs
