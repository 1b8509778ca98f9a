"""The control curve, and what it says of a configuration."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdllm.evaluation.summary import Summary
from fastdllm.report.baseline import baseline_of, deviations
from fastdllm.report.pareto import (
    ControlPoint,
    Curve,
    Standing,
    control_curve,
    is_worth_it,
    standing,
)


def at(runs: list[Summary], cost: float, accuracy: float, **fields: Any) -> Summary:
    """A run of look-ahead that costs and scores what a test needs."""
    run = next(r for r in runs if r.experiment == "04_lookahead" and r.passes)
    assert run.passes is not None
    n = run.n_requests
    passes = run.passes.model_copy(update={"layer_forwards_computed": round(cost * n)})
    primary = run.primary.model_copy(
        update={"value": accuracy, "interval": (accuracy - 0.02, accuracy + 0.02)}
    )
    changed = {"passes": passes, "accuracy": accuracy, "metrics": [primary], **fields}
    return run.model_copy(update=changed)


@pytest.fixture(scope="module")
def words(runs: list[Summary]) -> list[Summary]:
    return [run for run in runs if run.task == "word_problems"]


@pytest.fixture(scope="module")
def curve(words: list[Summary]) -> Curve:
    return control_curve(words, "layer_forwards")


def test_curve_goes_through_thresholds_only(curve: Curve) -> None:
    assert [point.threshold for point in curve.points] == [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0]
    assert [point.cost for point in curve.points] == [98, 103, 109, 117, 130, 146, 318]


def test_accuracy_between_controls_is_linear_and_unknown_outside(curve: Curve) -> None:
    low, high = curve.points[2], curve.points[3]
    assert curve.accuracy_at(low.cost) == low.accuracy
    middle = (low.accuracy + high.accuracy) / 2
    assert curve.accuracy_at((low.cost + high.cost) / 2) == pytest.approx(middle)
    assert curve.accuracy_at(97.9) is None and curve.accuracy_at(318.1) is None


@pytest.mark.parametrize(
    ("cost", "above", "expected"),
    [
        (113, 0.03, Standing.ABOVE),
        (113, 0.01, Standing.WITHIN_NOISE),
        (113, -0.01, Standing.BELOW),
        (90, 0.10, Standing.ABOVE),
        (90, -0.01, Standing.UNKNOWN),
        (400, -0.01, Standing.BELOW),
    ],
)
def test_standing(
    words: list[Summary], curve: Curve, cost: float, above: float, expected: Standing
) -> None:
    run = at(words, cost, curve.nearest_accuracy(cost) + above)
    assert standing(run, curve, "layer_forwards") is expected
    verdicts = {Standing.ABOVE: True, Standing.WITHIN_NOISE: True, Standing.BELOW: False}
    assert is_worth_it(run, curve, "layer_forwards") is verdicts.get(expected)


def test_what_one_cheaper_control_beats_is_not_worth_it(words: list[Summary]) -> None:
    """Even where the curve sags between a good cheap control and a bad dear one."""
    sagging = Curve(
        "layer_forwards",
        (
            ControlPoint(100, 0.95, None, 0.9, "t0.9"),
            ControlPoint(200, 0.80, None, 1.0, "t1.0"),
        ),
    )
    assert is_worth_it(at(words, 180, 0.90), sagging, "layer_forwards") is False


def test_more_tokens_per_second_are_cheaper(words: list[Summary]) -> None:
    curve = control_curve(words, "tokens_per_s")
    fast = next(run for run in words if run.config == "d3_t0.95_s4")
    slow = next(run for run in words if run.config == "delta_k2_first")
    assert is_worth_it(fast, curve, "tokens_per_s") is True
    assert is_worth_it(slow, curve, "tokens_per_s") is False


def test_nothing_is_said_without_controls_or_cost(words: list[Summary], curve: Curve) -> None:
    run = at(words, 113, 0.9)
    assert is_worth_it(run, Curve("layer_forwards", ()), "layer_forwards") is None
    assert is_worth_it(run.model_copy(update={"passes": None}), curve, "layer_forwards") is None


@given(
    points=st.lists(
        st.tuples(st.floats(1, 1000), st.floats(0, 1)), min_size=1, unique_by=lambda p: p[0]
    ),
    cost=st.floats(1, 1000),
)
def test_accuracy_stays_between_its_neighbours(
    points: list[tuple[float, float]], cost: float
) -> None:
    controls = tuple(ControlPoint(c, a, None, 0.9, "t") for c, a in sorted(points))
    found = Curve("seconds", controls).accuracy_at(cost)
    inside = controls[0].cost <= cost <= controls[-1].cost
    assert (found is not None) == inside
    if found is not None:
        left = [p.accuracy for p in controls if p.cost <= cost][-1]
        right = next(p.accuracy for p in controls if p.cost >= cost)
        assert min(left, right) - 1e-9 <= found <= max(left, right) + 1e-9


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
