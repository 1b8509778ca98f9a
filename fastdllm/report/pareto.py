"""Accuracy against cost, and the line that the cheapest idea there is gives: another threshold.

The line is a drawing; where a run stands is decided in standings.py. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastdllm.report.groups import CONTROL_EXPERIMENT, deviations
from fastdllm.results.summary import Summary
from fastdllm.statistics.costs import cost_of

# What accuracy is plotted against; forwards are left to the bars of passes by kind.
PLOTTED = ("layer_forwards", "seconds", "tokens_per_s")


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


def control_curve(summaries: Sequence[Summary], cost: str) -> Curve:
    """The curve through the thresholds of `03_controls` among runs of one task.

    For a cost of the machine the runs must share their speed conditions.
    """
    points: dict[float, ControlPoint] = {}
    for summary in summaries:
        value = cost_of(summary, cost)
        if summary.experiment != CONTROL_EXPERIMENT or value is None:
            continue
        if not deviations(summary).keys() <= {"threshold"}:
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
