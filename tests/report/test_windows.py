"""What part of a plot is seen."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdllm.report.pareto import Dot, Window, close, cut_line, whole

BASELINE = Dot(130, 95, 93, 97)
FAR = [Dot(100, 40, 36, 44), Dot(318, 96, 94, 98)]
NEAR = [Dot(90, 94, 92, 96), Dot(120, 84, 80, 88)]


def test_everything_is_seen_with_its_intervals() -> None:
    window = whole([BASELINE, *FAR, *NEAR])
    assert window.left < 90 and window.right > 318
    assert window.low < 36 and window.high > 98 and window.high <= 100
    assert window.hidden == 0


def test_neighbourhood_hides_what_is_far_worse_or_far_dearer() -> None:
    window = close([BASELINE, *FAR, *NEAR], BASELINE, more_is_better=False)
    assert window is not None and window.hidden == 2
    assert window.left < 90 and 130 < window.right < 318
    assert 80 < window.low < 84, "an interval may be cut, a dot never"


def test_no_second_view_where_all_are_near() -> None:
    assert close([BASELINE, *NEAR], BASELINE, more_is_better=False) is None


def test_slow_runs_are_dear_where_more_is_better() -> None:
    slow, fast = Dot(50, 95, 93, 97), Dot(500, 95, 93, 97)
    window = close([BASELINE, slow, fast], BASELINE, more_is_better=True)
    assert window is not None and window.hidden == 1 and window.right > 500


percents = st.floats(0, 100).map(lambda value: round(value, 3))


@given(
    dots=st.lists(
        st.tuples(st.integers(0, 100), percents, percents, percents),
        min_size=2,
        max_size=8,
        unique_by=lambda values: values[0],
    ).map(lambda rows: [Dot(*row) for row in sorted(rows)]),
    left=st.integers(0, 40),
    low=st.integers(0, 40),
)
def test_cut_line_is_the_line_inside_and_turns_at_every_edge(
    dots: list[Dot], left: int, low: int
) -> None:
    window = Window(left, left + 50, low, low + 50, 0)
    corners = cut_line(dots, window)
    assert all(window.left - 1e-9 <= corner.cost <= window.right + 1e-9 for corner in corners)
    for corner in corners:
        assert corner.accuracy == pytest.approx(value_at(dots, corner.cost), abs=1e-6)
    # Between two corners the line does not cross an edge, so pulling it to the edge is exact.
    for a, b in pairwise(corners):
        for edge in (window.low, window.high):
            assert (a.accuracy - edge) * (b.accuracy - edge) >= -1e-6


def value_at(dots: list[Dot], cost: float) -> float:
    for a, b in pairwise(dots):
        if a.cost <= cost <= b.cost:
            return a.accuracy + (cost - a.cost) / (b.cost - a.cost) * (b.accuracy - a.accuracy)
    return next(dot.accuracy for dot in dots if dot.cost == cost)
