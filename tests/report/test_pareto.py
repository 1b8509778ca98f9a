"""The control curve, the run that others are compared with, and the windows of a plot."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdllm.records.summary import Summary
from fastdllm.report.axes import costs_of
from fastdllm.report.groups import baseline_of, deviations
from fastdllm.report.pareto import Dot, Window, clipped_line, close, control_curve, whole

BASELINE = Dot(130, 95, 93, 97)
FAR = [Dot(100, 40, 36, 44), Dot(318, 96, 94, 98)]
NEAR = [Dot(90, 94, 92, 96), Dot(120, 84, 80, 88)]


@pytest.fixture(scope="module")
def curve(words: list[Summary]) -> dict[Dot, float]:
    baseline = baseline_of(words)
    return control_curve([(run, costs_of(run, baseline, [])["layer_forwards"]) for run in words])


def test_curve_goes_through_thresholds_only(curve: dict[Dot, float]) -> None:
    assert list(curve.values()) == [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0]
    assert [dot.cost for dot in curve] == [98, 103, 109, 117, 130, 146, 318]


def test_baseline_is_plain_decoding_that_was_decoded(words: list[Summary]) -> None:
    assert baseline_of(words).config == "k1_first"
    assert deviations(baseline_of(words)) == {}
    reuse = [run for run in words if run.experiment == "02_delta_reuse"]
    assert baseline_of(reuse) is reuse[0]


def test_settings_without_effect_are_no_deviation(words: list[Summary]) -> None:
    run = next(run for run in words if run.config == "k1_last")
    decides = {**run.decides, "decoding.lookahead_threshold": 0.5, "decoding.max_new_tokens": 7}
    assert deviations(run.model_copy(update={"decides": decides})) == {}
    assert deviations(next(run for run in words if run.config == "t0.8")) == {"threshold": 0.8}


def test_everything_is_seen_with_its_intervals() -> None:
    window = whole([BASELINE, *FAR, *NEAR])
    assert window.left < 90 and window.right > 318
    assert window.low < 36 and window.high > 98 and window.high <= 100
    assert window.hidden == 0


def test_neighbourhood_hides_what_is_far_worse_or_far_more_expensive() -> None:
    window = close([BASELINE, *FAR, *NEAR], BASELINE)
    assert window is not None and window.hidden == 2
    assert window.left < 90 and 130 < window.right < 318
    assert 80 < window.low < 84, "an interval may be cut, a dot never"


def test_no_second_view_where_all_are_near() -> None:
    assert close([BASELINE, *NEAR], BASELINE) is None


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
def test_clipped_line_is_the_line_inside_and_turns_at_every_edge(
    dots: list[Dot], left: int, low: int
) -> None:
    window = Window(left, left + 50, low, low + 50, 0)
    corners = clipped_line(dots, window)
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
