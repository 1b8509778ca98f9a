"""Which part of a Pareto plot is seen: all of it, or the neighbourhood of the baseline.

Published reuse loses half of the accuracy, other ideas fractions of a point; one pair of axes
cannot show both. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

# Seen around the baseline: this many points of accuracy, and this many times its cost.
CLOSE_POINTS, CLOSE_COST = 12.0, 1.3
MARGIN = 0.04


@dataclass(frozen=True, slots=True)
class Dot:
    """A run or a control in the plot: cost, accuracy and its interval in %."""

    cost: float
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Window:
    """Limits of both axes, and how many dots lie outside."""

    left: float
    right: float
    low: float
    high: float
    hidden: int

    def nearest(self, accuracy: float) -> float:
        """The accuracy, pulled to the edge where it lies outside."""
        return max(self.low, min(self.high, accuracy))

    def shows(self, accuracy: float) -> bool:
        """Whether it lies inside, up to rounding."""
        return abs(self.nearest(accuracy) - accuracy) < 1e-9


def whole(dots: Sequence[Dot]) -> Window:
    """Every dot with its interval."""
    costs = [dot.cost for dot in dots]
    lows, highs = [dot.low for dot in dots], [dot.high for dot in dots]
    left, right = _padded(min(costs), max(costs))
    low, high = _padded(min(lows), max(highs))
    return Window(max(0.0, left), right, max(0.0, low), min(100.0, high), 0)


def close(dots: Sequence[Dot], baseline: Dot, *, more_is_better: bool) -> Window | None:
    """The dots near the baseline and all that are better; None where that is nearly all."""
    floor = baseline.accuracy - CLOSE_POINTS
    dearest = baseline.cost / CLOSE_COST if more_is_better else baseline.cost * CLOSE_COST

    def near(dot: Dot) -> bool:
        cheap = dot.cost >= dearest if more_is_better else dot.cost <= dearest
        return cheap and dot.accuracy >= floor

    seen = [dot for dot in dots if near(dot)]
    if len(seen) in (0, len(dots)):
        return None
    window = whole(seen)
    low = max(window.low, floor - 1)
    return Window(window.left, window.right, low, window.high, len(dots) - len(seen))


def cut_line(dots: Sequence[Dot], window: Window) -> list[Dot]:
    """A line through dots, with its band, from the left to the right edge of a window.

    It gets a corner wherever it or its band crosses an edge, so that what lies outside can be
    pulled to the edge and nothing needs clipping (which images pay dearly for).
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
