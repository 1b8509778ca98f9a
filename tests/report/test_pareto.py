"""The control curve, and the run that others are compared with."""

from __future__ import annotations

import pytest

from fastdllm.report.groups import baseline_of, deviations
from fastdllm.report.pareto import Dot, control_curve
from fastdllm.results.summary import Summary


@pytest.fixture(scope="module")
def words(runs: list[Summary]) -> list[Summary]:
    return [run for run in runs if run.task == "word_problems"]


@pytest.fixture(scope="module")
def curve(words: list[Summary]) -> dict[Dot, float]:
    return control_curve(words, "layer_forwards")


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
