"""Accuracy against cost, held against the cheapest idea there is: another threshold.

A configuration is worth having only where it is more accurate than what the threshold alone gives
at the same cost. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from fastdllm.evaluation.costs import COSTS
from fastdllm.evaluation.summary import Summary
from fastdllm.report.baseline import CONTROL_EXPERIMENT, is_threshold_only

# What accuracy is plotted against; of the costs, forwards are told by the passes by kind.
PLOTTED = ("layer_forwards", "seconds", "tokens_per_s")
# Costs of which more is better; the rest are prices.
MORE_IS_BETTER = frozenset(["tokens_per_s"])
# Costs that depend on the machine; the rest can be compared between machines.
OF_THE_MACHINE = frozenset(["seconds", "tokens_per_s"])


class Standing(StrEnum):
    """Where a run lies, seen from the control curve."""

    CONTROL = "control"
    ABOVE = "above the controls"
    WITHIN_NOISE = "above, within noise"
    BELOW = "not worth it"
    UNKNOWN = "no control at this cost"


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

    def accuracy_at(self, cost: float) -> float | None:
        """Accuracy on the straight line between two neighbouring controls; None outside."""
        for point in self.points:
            if point.cost == cost:
                return point.accuracy
        for below, above in pairwise(self.points):
            if below.cost < cost < above.cost:
                share = (cost - below.cost) / (above.cost - below.cost)
                return below.accuracy + share * (above.accuracy - below.accuracy)
        return None

    def nearest_accuracy(self, cost: float) -> float:
        """The same, and outside of the controls the accuracy of the last one on that side."""
        inside = self.accuracy_at(cost)
        if inside is not None:
            return inside
        return self.points[0 if cost < self.points[0].cost else -1].accuracy

    def beats(self, cost: float, accuracy: float) -> bool:
        """Whether some control is as cheap and as accurate, and better in one of the two."""
        sign = -1 if self.cost in MORE_IS_BETTER else 1
        return any(
            sign * point.cost <= sign * cost
            and point.accuracy >= accuracy
            and (point.cost != cost or point.accuracy > accuracy)
            for point in self.points
        )


def cost_of(summary: Summary, cost: str) -> float | None:
    """The cost of that name (see evaluation/costs.py); None where it was not measured."""
    _, function = COSTS[cost]
    return function(summary)


def control_curve(summaries: Sequence[Summary], cost: str) -> Curve:
    """The curve through the thresholds of `03_controls` among runs of one task.

    For a cost of the machine the runs must share their speed conditions (see figures.py).
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


def is_worth_it(summary: Summary, curve: Curve, cost: str) -> bool | None:
    """Whether the run is more accurate than the threshold alone at its cost.

    None: nothing to compare with (no cost, no controls, or cheaper than every control and less
    accurate than the cheapest one). A run that one control beats outright is not worth it.
    """
    value = cost_of(summary, cost)
    if value is None or not curve.points:
        return None
    if curve.beats(value, summary.accuracy):
        return False
    is_above = summary.accuracy >= curve.nearest_accuracy(value)
    return True if is_above else (None if curve.accuracy_at(value) is None else False)


def standing(summary: Summary, curve: Curve, cost: str) -> Standing:
    """The same in words, with the noise: an interval that reaches the curve proves nothing."""
    if is_threshold_only(summary):
        return Standing.CONTROL
    worth = is_worth_it(summary, curve, cost)
    if worth is None:
        return Standing.UNKNOWN
    if not worth:
        return Standing.BELOW
    value, interval = cost_of(summary, cost), summary.primary.interval
    assert value is not None
    reaches = interval is None or interval[0] <= curve.nearest_accuracy(value)
    return Standing.WITHIN_NOISE if reaches else Standing.ABOVE


def _threshold(summary: Summary) -> float:
    return float(str(summary.decides.get("decoding.threshold", "nan")))
