"""Accuracy against cost, and the line that the cheapest idea there is gives: another threshold.

The line is a drawing; what a run is worth is told by standings.py. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastdllm.report.comparisons import CONTROL_EXPERIMENT, is_threshold_only
from fastdllm.results.summary import Summary
from fastdllm.statistics.costs import COSTS

# What accuracy is plotted against; of the costs, forwards are told by the passes by kind.
PLOTTED = ("layer_forwards", "seconds", "tokens_per_s")
# Costs of which more is better; the rest are prices.
MORE_IS_BETTER = frozenset(["tokens_per_s"])
# Costs that depend on the machine; the rest can be compared between machines.
OF_THE_MACHINE = frozenset(["seconds", "tokens_per_s"])


@dataclass(frozen=True, slots=True)
class ControlPoint:
    """One threshold; accuracy in 0..1, cost in the unit of the curve."""

    cost: float
    accuracy: float
    interval: tuple[float, float] | None
    threshold: float
    config: str


@dataclass(frozen=True, slots=True)
class Curve:
    """What the threshold alone gives: its points by rising cost, one per cost."""

    cost: str
    points: tuple[ControlPoint, ...]


def cost_of(summary: Summary, cost: str) -> float | None:
    """The cost of that name (see evaluation/costs.py); None where it was not measured."""
    _, function = COSTS[cost]
    return function(summary)


def control_curve(summaries: Sequence[Summary], cost: str) -> Curve:
    """The curve through the thresholds of `03_controls` among runs of one task.

    For a cost of the machine the runs must share their speed conditions (evaluation/costs.py).
    """
    points: dict[float, ControlPoint] = {}
    for summary in summaries:
        value = cost_of(summary, cost)
        if summary.experiment != CONTROL_EXPERIMENT or value is None:
            continue
        if not is_threshold_only(summary):
            continue
        known = points.get(value)
        if known is None or known.accuracy < summary.accuracy:
            points[value] = ControlPoint(
                cost=value,
                accuracy=summary.accuracy,
                interval=summary.primary.interval,
                threshold=_threshold(summary),
                config=summary.config,
            )
    return Curve(cost, tuple(points[value] for value in sorted(points)))


def _threshold(summary: Summary) -> float:
    return float(str(summary.decides.get("decoding.threshold", "nan")))
