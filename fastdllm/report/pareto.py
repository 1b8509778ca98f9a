"""Accuracy against cost: the dots of a plot, the control curve, and which part of it is seen.

Published reuse loses half of the accuracy, other ideas fractions of a point; one pair of axes
cannot show both, so a plot has two windows: everything, and the neighbourhood of the baseline. The
curve is a drawing; where a run stands is decided in standings.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from fastdllm.records.summary import Summary
from fastdllm.report.axes import Measured
from fastdllm.report.controls import CONTROL_EXPERIMENT
from fastdllm.report.groups import deviations
from fastdllm.report.words import interval_of

# The window near the baseline: this many points below it, and this many times its cost.
CLOSE_POINTS, CLOSE_COST = 12.0, 1.3
MARGIN = 0.04


@dataclass(frozen=True, slots=True)
class Dot:
    """A run or a control in the plot: cost, accuracy and its interval in %."""

    cost: float
    accuracy: float
    low: float
    high: float


def dot_of(summary: Summary, cost: Measured | None) -> Dot | None:
    """Return the dot of a run; None if the cost was not measured."""
    if cost is None:
        return None
    low, high = interval_of(summary)
    return Dot(cost.value, 100 * summary.accuracy, 100 * low, 100 * high)


def control_curve(runs: Sequence[tuple[Summary, Measured | None]]) -> dict[Dot, float]:
    """Return the dots that the threshold alone gives, by rising cost, with their thresholds.

    These are the runs of `03_controls` among `runs`, which are of one task, that change only the
    threshold; of equal cost the most accurate.
    """
    best: dict[float, tuple[Dot, float]] = {}
    for summary, cost in runs:
        dot = dot_of(summary, cost)
        if dot is None or summary.experiment != CONTROL_EXPERIMENT:
            continue
        previous = best.get(dot.cost)
        is_best = previous is None or previous[0].accuracy < dot.accuracy
        if is_best and deviations(summary).keys() <= {"threshold"}:
            best[dot.cost] = dot, float(str(summary.decides.get("decoding.threshold", "nan")))
    return dict(best[value] for value in sorted(best))


@dataclass(frozen=True, slots=True)
class Window:
    """Limits of both axes, and how many dots lie outside."""

    left: float
    right: float
    low: float
    high: float
    hidden: int

    def nearest(self, accuracy: float) -> float:
        """Return the accuracy, moved to the edge if it lies outside."""
        return max(self.low, min(self.high, accuracy))

    def shows(self, accuracy: float) -> bool:
        """Whether the accuracy lies inside, up to rounding."""
        return abs(self.nearest(accuracy) - accuracy) < 1e-9


def whole(dots: Sequence[Dot]) -> Window:
    """Return a window on every dot with its interval."""
    costs = [dot.cost for dot in dots]
    lows, highs = [dot.low for dot in dots], [dot.high for dot in dots]
    left, right = _padded(min(costs), max(costs))
    low, high = _padded(min(lows), max(highs))
    return Window(max(0.0, left), right, max(0.0, low), min(100.0, high), 0)


def close(dots: Sequence[Dot], baseline: Dot) -> Window | None:
    """Return a window on the dots near the baseline or better; None if it would hide none."""
    floor = baseline.accuracy - CLOSE_POINTS
    limit = baseline.cost * CLOSE_COST
    near_dots = [dot for dot in dots if dot.cost <= limit and dot.accuracy >= floor]
    if len(near_dots) in (0, len(dots)):
        return None
    window = whole(near_dots)
    low = max(window.low, floor - 1)
    return Window(window.left, window.right, low, window.high, len(dots) - len(near_dots))


def clipped_line(dots: Sequence[Dot], window: Window) -> list[Dot]:
    """Return a line through dots, with its band, from the left to the right edge of a window.

    It gets a corner wherever it or its band crosses an edge, so that what lies outside can be moved
    to the edge; letting the renderer clip it would take a second per image.
    """
    corners = [dot for dot in dots if window.left <= dot.cost <= window.right]
    for a, b in pairwise(dots):
        shares = [(edge - a.cost) / (b.cost - a.cost) for edge in (window.left, window.right)]
        for field in ("accuracy", "low", "high"):
            start, stop = getattr(a, field), getattr(b, field)
            if start != stop:
                shares += [(edge - start) / (stop - start) for edge in (window.low, window.high)]
        between = [_between(a, b, share) for share in shares if 0 < share < 1]
        corners += [dot for dot in between if window.left <= dot.cost <= window.right]
    return sorted(corners, key=lambda dot: dot.cost)


def _between(a: Dot, b: Dot, share: float) -> Dot:
    values = [
        getattr(a, field) + share * (getattr(b, field) - getattr(a, field))
        for field in ("cost", "accuracy", "low", "high")
    ]
    return Dot(*values)


def _padded(low: float, high: float) -> tuple[float, float]:
    space = (high - low) * MARGIN or abs(high) * MARGIN or 1.0
    return low - space, high + space
