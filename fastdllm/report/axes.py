"""What the plots hold against accuracy: the costs of runs, and how they are called.

Layer-forwards are what a GPU pays for one sequence, position-forwards what it pays for a large
batch; seconds are those of the baseline and of a run in turn (docs/speed.md), by batch size. A run
without a value on an axis is not drawn there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fastdllm.records.speed_record import SpeedRecord
from fastdllm.records.summary import Summary
from fastdllm.statistics.comparison import is_same_computation
from fastdllm.statistics.costs import COSTS, cost_of
from fastdllm.statistics.speed_between import ratios_between

# Costs that every run has, from its own passes.
OF_PASSES = ("layer_forwards", "position_forwards")


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: key in the data, short name for buttons, and the title of the axis."""

    key: str
    short: str
    title: str


@dataclass(frozen=True, slots=True)
class Measured:
    """A cost, with its 95 % interval where it has one."""

    value: float
    low: float | None = None
    high: float | None = None


def costs_of(run: Summary, baseline: Summary, speeds: Sequence[SpeedRecord]) -> dict[str, Measured]:
    """Return what is known of the costs of a run, by the key of their axis."""
    costs = {
        name: Measured(value) for name in OF_PASSES if (value := cost_of(run, name)) is not None
    }
    if is_same_computation(baseline, run):
        return costs | {_key(size): Measured(1.0) for size in _sizes(speeds)}
    for measured in ratios_between(baseline, run, speeds):
        if not measured.record.failed_checks:
            low, high = measured.ratio.interval
            costs[_key(measured.batch_size)] = Measured(measured.ratio.value, low, high)
    return costs


def axes_of(every: Iterable[dict[str, Measured]]) -> tuple[Axis, ...]:
    """Return the axes on which at least two runs have a value, always layer-forwards first."""
    known: dict[str, int] = {OF_PASSES[0]: 2}
    for costs in every:
        for key in costs:
            known[key] = known.get(key, 0) + 1
    keys = sorted((key for key, count in known.items() if count > 1), key=_order)
    return tuple(_axis(key) for key in keys)


def _key(batch_size: int) -> str:
    return f"seconds_{batch_size}"


def _sizes(speeds: Sequence[SpeedRecord]) -> list[int]:
    return sorted({b.batch_size for record in speeds for b in record.sittings[0].batches})


def _order(key: str) -> tuple[int, int]:
    return (OF_PASSES.index(key), 0) if key in OF_PASSES else (len(OF_PASSES), _size(key))


def _size(key: str) -> int:
    return int(key.rpartition("_")[2])


def _axis(key: str) -> Axis:
    if key in OF_PASSES:
        return Axis(key, key.replace("_", "-"), COSTS[key][0])
    title = f"seconds per answer over the baseline's, batch size {_size(key)}"
    return Axis(key, f"seconds, batch {_size(key)}", title)
