"""Intervals, errors and corrections against published values and slow formulas."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdllm.statistics.intervals import clustered_stderr, wilson_interval


def test_wilson_interval_equals_the_published_example() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263 gives 0.2553 to 0.3662.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    # The same table: 0 of 20 gives 0 to 0.1611.
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_wilson_interval_stays_within_0_and_1() -> None:
    assert wilson_interval(7, 7)[1] == 1.0
    with pytest.raises(ValueError, match="8 successes of 7"):
        wilson_interval(8, 7)


def slow_clustered(groups: list[list[float]]) -> float:
    """Miller (arXiv 2411.00640), equation for clustered items, with G / (G - 1): over all pairs."""
    values = [value for group in groups for value in group]
    mean, n = sum(values) / len(values), len(values)
    pairs = sum((x - mean) * (y - mean) for group in groups for x in group for y in group)
    return math.sqrt(max(0.0, len(groups) / (len(groups) - 1) * pairs)) / n


@given(groups=st.lists(st.lists(st.sampled_from([0, 1]), min_size=1), min_size=2, max_size=8))
def test_clustered_error_equals_the_sum_over_pairs(groups: list[list[float]]) -> None:
    stderr = clustered_stderr([(sum(group), len(group)) for group in groups])
    assert stderr == pytest.approx(slow_clustered(groups), abs=1e-7)


def test_groups_of_one_item_give_the_plain_standard_error() -> None:
    values = [0, 1, 1, 0, 1, 1, 1]
    plain = statistics.stdev(values) / math.sqrt(len(values))
    assert clustered_stderr([(value, 1) for value in values]) == pytest.approx(plain)
    assert clustered_stderr([(5, 7)]) is None


def test_clustered_error_is_the_spread_of_means_over_new_groups() -> None:
    """Of 2,000 samples of 40 subjects whose difficulty varies; a plain error is far too small."""
    generator = np.random.default_rng(4)
    sizes = generator.integers(5, 60, size=40)
    means, errors = [], []
    for _ in range(2000):
        right = generator.binomial(sizes, generator.beta(3, 2, size=40))
        means.append(right.sum() / sizes.sum())
        errors.append(
            clustered_stderr([(int(r), int(n)) for r, n in zip(right, sizes, strict=True)])
        )
    spread = statistics.stdev(means)
    assert math.sqrt(statistics.mean(e**2 for e in errors)) == pytest.approx(spread, rel=0.05)
    plain = math.sqrt(0.6 * 0.4 / sizes.sum())
    assert plain < spread / 2
    covered = sum(abs(m - 0.6) <= 1.96 * e for m, e in zip(means, errors, strict=True))
    assert 0.92 <= covered / 2000 <= 0.97
