"""Ratios of seconds measured in turn: exact intervals of a sitting, honest ones over several."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from random import Random
from statistics import NormalDist, median

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fastdllm.statistics.paired_speed import (
    FEWEST_SITTINGS,
    PILOT_ROUNDS,
    autocorrelation,
    hodges_lehmann,
    ratio_of_sitting,
    ratio_of_sittings,
    rounds_needed,
    signed_rank_interval,
    t_interval,
)

TRUE_RATIO = 0.9
SITTINGS = 5


@pytest.mark.parametrize("n", [6, 7, 9, 11])
def test_signed_rank_interval_holds_what_the_exact_test_accepts(n: int) -> None:
    rng = Random(n)
    values = [rng.gauss(0, 1) for _ in range(n)]
    interval = signed_rank_interval(values)
    assert interval is not None
    low, high = interval
    for inside in (low + 1e-9, hodges_lehmann(values), high - 1e-9):
        assert exact_p([value - inside for value in values]) > 0.05
    for outside in (low - 1e-9, high + 1e-9):
        assert exact_p([value - outside for value in values]) <= 0.05


def exact_p(values: list[float]) -> float:
    """Two-sided p of the signed-rank test, by all assignments of signs."""
    order = sorted(range(len(values)), key=lambda index: abs(values[index]))
    ranks = {index: rank + 1 for rank, index in enumerate(order)}
    positive = sum(ranks[index] for index, value in enumerate(values) if value > 0)
    sums = [
        sum(rank for rank, sign in zip(ranks.values(), signs, strict=True) if sign)
        for signs in itertools.product((0, 1), repeat=len(values))
    ]
    less = sum(total <= positive for total in sums) / len(sums)
    more = sum(total >= positive for total in sums) / len(sums)
    return min(1.0, 2 * min(less, more))


def test_many_rounds_use_the_normal_approximation_where_it_joins_the_exact_one() -> None:
    rng = Random(1)
    for n in (59, 60, 61, 62, 100):
        values = [rng.gauss(0, 1) for _ in range(n)]
        interval = signed_rank_interval(values)
        assert interval is not None
        for outside, border in ((-1e-9, interval[0]), (1e-9, interval[1])):
            moved = [value - border - outside for value in values]
            assert stats.wilcoxon(moved, method="exact").pvalue == pytest.approx(0.05, abs=0.004)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30))
def test_hodges_lehmann_is_the_median_of_all_averages(values: list[float]) -> None:
    averages = [(a + b) / 2 for i, a in enumerate(values) for b in values[i:]]
    assert hodges_lehmann(values) == median(averages)


def test_t_interval_is_that_of_scipy() -> None:
    values = [0.1, 0.3, 0.2, 0.5]
    expected = stats.t.interval(0.95, 3, loc=0.275, scale=stats.sem(values))
    assert t_interval(values) == pytest.approx(expected)
    assert t_interval([1.0]) is None


def test_too_few_rounds_or_sittings_have_no_interval() -> None:
    assert ratio_of_sitting([0.1] * 5).interval is None
    assert ratio_of_sitting([0.1] * 6).interval == pytest.approx((math.exp(0.1), math.exp(0.1)))
    assert ratio_of_sittings([[0.1] * 40] * (FEWEST_SITTINGS - 1)) is None
    with pytest.raises(ValueError, match="without a round"):
        ratio_of_sitting([])


def test_worked_example_of_three_sittings() -> None:
    ratio = ratio_of_sittings([[0.1, 0.1, 0.4], [0.2] * 3, [0.3] * 3])
    assert ratio is not None
    # Of the first: averages 0.1 (3 times), 0.25 (twice), 0.4; their median is 0.175.
    centres = [0.175, 0.2, 0.3]
    mean = sum(centres) / 3
    half = 4.302653 * math.sqrt(sum((c - mean) ** 2 for c in centres) / 2) / math.sqrt(3)
    assert ratio.value == pytest.approx(math.exp(mean))
    assert ratio.interval == pytest.approx((math.exp(mean - half), math.exp(mean + half)))
    assert (ratio.sittings, ratio.rounds) == (3, 9)
    assert ratio.half_width == pytest.approx(math.exp(half) - 1)


def test_autocorrelation_of_a_slow_spell_and_of_turns() -> None:
    assert autocorrelation([0.0] * 10 + [1.0] * 10) == pytest.approx(0.9, abs=0.1)
    assert autocorrelation([0.0, 1.0] * 10) == pytest.approx(-0.95, abs=0.1)
    assert autocorrelation([1.0, 1.0, 1.0]) is None


@pytest.mark.parametrize(("spread", "rounds"), [(0.02, 7), (0.03, 12), (0.04, 19), (0.06, 39)])
def test_rounds_needed_give_the_precision_asked_for(spread: float, rounds: int) -> None:
    pilot = NormalDist(0, 1).samples(PILOT_ROUNDS, seed=1)
    scale = spread / stats.tstd(pilot)
    assert rounds_needed([scale * value for value in pilot], 0.02) == rounds


# One sitting: seconds of the halves A B B A of each round, as a machine may give them.
Machine = Callable[[Random, int], list[tuple[float, float, float, float]]]


def quiet(rng: Random, rounds: int) -> list[tuple[float, float, float, float]]:
    return [_halves(rng, [1.0] * 4) for _ in range(rounds)]


def slow_spells(rng: Random, rounds: int) -> list[tuple[float, float, float, float]]:
    """Another process slows some successive halves down, for longer than a round at times."""
    factors, is_slow = [], False
    for _ in range(4 * rounds):
        is_slow = rng.random() < (0.7 if is_slow else 0.08)
        factors.append(rng.uniform(1.3, 2.0) if is_slow else 1.0)
    return [_halves(rng, factors[4 * r : 4 * r + 4]) for r in range(rounds)]


def drift(rng: Random, rounds: int) -> list[tuple[float, float, float, float]]:
    slope = rng.uniform(-0.5, 0.5) / (4 * rounds)
    return [_halves(rng, [math.exp(slope * (4 * r + i)) for i in range(4)]) for r in range(rounds)]


def outliers(rng: Random, rounds: int) -> list[tuple[float, float, float, float]]:
    return [
        _halves(rng, [3.0 if rng.random() < 0.03 else 1.0 for _ in range(4)]) for _ in range(rounds)
    ]


def other_each_time(rng: Random, rounds: int) -> list[tuple[float, float, float, float]]:
    """In each sitting the config stands otherwise to the baseline, by 3 %."""
    factor = math.exp(rng.gauss(0, 0.03))
    return [_halves(rng, [1.0, factor, factor, 1.0]) for _ in range(rounds)]


def _halves(rng: Random, factors: list[float]) -> tuple[float, float, float, float]:
    true = (1.0, TRUE_RATIO, TRUE_RATIO, 1.0)
    seconds = [
        t * factor * math.exp(rng.gauss(0, 0.04)) for t, factor in zip(true, factors, strict=True)
    ]
    return (seconds[0], seconds[1], seconds[2], seconds[3])


def logs_of(rounds: list[tuple[float, float, float, float]]) -> list[float]:
    return [math.log((b1 + b2) / (a1 + a2)) for a1, b1, b2, a2 in rounds]


@pytest.mark.parametrize("machine", [quiet, slow_spells, drift, outliers, other_each_time])
def test_interval_over_sittings_covers_the_true_ratio(machine: Machine) -> None:
    rng, samples, hits = Random(7), 2000, 0
    for _ in range(samples):
        sittings = [logs_of(machine(rng, PILOT_ROUNDS)) for _ in range(SITTINGS)]
        ratio = ratio_of_sittings(sittings)
        assert ratio is not None
        hits += ratio.interval[0] <= TRUE_RATIO <= ratio.interval[1]
    assert 0.93 <= hits / samples <= 0.97


@pytest.mark.parametrize("machine", [quiet, slow_spells, outliers])
def test_interval_of_one_sitting_covers_what_rounds_vary(machine: Machine) -> None:
    rng, samples, hits = Random(8), 2000, 0
    for _ in range(samples):
        interval = ratio_of_sitting(logs_of(machine(rng, 20))).interval
        assert interval is not None
        hits += interval[0] <= TRUE_RATIO <= interval[1]
    assert 0.93 <= hits / samples <= 0.97


def test_interval_of_one_sitting_is_too_narrow_where_sittings_differ() -> None:
    rng, samples, hits = Random(9), 500, 0
    for _ in range(samples):
        interval = ratio_of_sitting(logs_of(other_each_time(rng, 20))).interval
        assert interval is not None
        hits += interval[0] <= TRUE_RATIO <= interval[1]
    assert hits / samples < 0.7
