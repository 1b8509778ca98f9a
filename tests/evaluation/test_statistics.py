"""Intervals and percentiles against published values."""

import pytest

from fastdllm.evaluation.stats import percentile, wilson_interval


def test_wilson_interval_equals_the_published_example() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263 gives 0.2553 to 0.3662.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    # The same table: 0 of 20 gives 0 to 0.1611.
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_wilson_interval_stays_within_0_and_1() -> None:
    assert wilson_interval(7, 7)[1] == 1.0
    with pytest.raises(ValueError, match="8 successes of 7"):
        wilson_interval(8, 7)


def test_percentile_interpolates_between_neighbours() -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], 50) == 2.5
    assert percentile([5.0], 95) == 5.0
