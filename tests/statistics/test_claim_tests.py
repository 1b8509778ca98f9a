"""Tests of claims: exact oracles, and simulations of how often a false claim is confirmed."""

from __future__ import annotations

import itertools
import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import minimize_scalar

from fastdllm.statistics.claim_tests import (
    LEVEL,
    PairedCounts,
    against_all,
    better,
    bounds,
    equivalent,
    noninferior,
    ratio_below,
)
from fastdllm.statistics.intervals import clustered_stderr
from fastdllm.statistics.repeated import mean_of, over_items

SAMPLES = 20_000
MARGIN = 0.02


@st.composite
def pairs(draw: st.DrawFn) -> PairedCounts:
    n = draw(st.integers(1, 400))
    only_control = draw(st.integers(0, n))
    return PairedCounts(n, only_control, draw(st.integers(0, n - only_control)))


@given(pair=pairs(), margin=st.floats(0.001, 0.5))
def test_a_claim_holds_exactly_where_its_bound_is_beyond_the_margin(
    pair: PairedCounts, margin: float
) -> None:
    low, high = bounds(pair)
    tests = noninferior(pair, margin), equivalent(pair, margin)
    if min(abs(low + margin), abs(high - margin), abs(high + margin)) > 1e-9:
        assert (tests[0].p < LEVEL) == (low > -margin)
        assert (tests[0].p_opposite < LEVEL) == (high < -margin)
        assert (tests[1].p < LEVEL) == (-margin < low and high < margin)


@pytest.mark.parametrize("counts", [(60, 4, 9), (21, 7, 1), (2000, 37, 27), (100, 0, 3)])
def test_p_is_that_of_the_score_test_with_the_likeliest_shares(
    counts: tuple[int, int, int],
) -> None:
    n, only_control, only_config = counts

    def unlikely(share: float) -> float:
        # share: right in the control alone, where the difference is -MARGIN.
        others = (share - MARGIN, 1 - 2 * share + MARGIN)
        terms = ((only_control, share), (only_config, others[0]), (n - sum(counts[1:]), others[1]))
        return -sum(count * math.log(max(p, 1e-300)) for count, p in terms if count)

    found = minimize_scalar(
        unlikely, bounds=(MARGIN, (1 + MARGIN) / 2), method="bounded", options={"xatol": 1e-12}
    )
    variance = n * (2 * found.x - MARGIN - MARGIN**2)
    score = (only_config - only_control + n * MARGIN) / math.sqrt(variance)
    tested = noninferior(PairedCounts(*counts), MARGIN)
    assert tested.p == pytest.approx(stats.norm.sf(score), rel=1e-3)
    assert tested.p_opposite == pytest.approx(stats.norm.cdf(score), rel=1e-3)


@given(only_control=st.integers(0, 60), only_config=st.integers(0, 60))
def test_better_is_the_exact_binomial_test(only_control: int, only_config: int) -> None:
    tested = better(PairedCounts(200, only_control, only_config))
    differing = only_control + only_config
    for alternative, p in (("greater", tested.p), ("less", tested.p_opposite)):
        expected = (
            stats.binomtest(only_config, differing, 0.5, alternative).pvalue if differing else 1
        )
        assert p == pytest.approx(expected)


def test_better_counts_all_assignments_of_the_items_that_differ() -> None:
    for only_control, only_config in itertools.product(range(5), repeat=2):
        n = only_control + only_config
        ways = [sum(signs) >= only_config for signs in itertools.product((0, 1), repeat=n)]
        assert better(PairedCounts(9, only_control, only_config)).p == pytest.approx(
            sum(ways) / len(ways)
        )


def test_a_ratio_is_tested_by_student_over_sittings() -> None:
    logs = [math.log(value) for value in (0.93, 0.95, 0.91, 0.96, 0.94)]
    tested = ratio_below(logs, 0.98)
    less = stats.ttest_1samp(logs, math.log(0.98), alternative="less")
    assert tested.p == pytest.approx(less.pvalue)
    assert tested.p_opposite == pytest.approx(1 - less.pvalue)
    expected = stats.t.interval(0.95, 4, loc=np.mean(logs), scale=stats.sem(logs))
    assert tested.interval == pytest.approx(tuple(math.exp(end) for end in expected))
    for limit in np.linspace(0.9, 1.0, 41):
        is_below = ratio_below(logs, limit).p < LEVEL
        assert is_below == (tested.interval[1] < limit)


@cache
def confirmed(kind: str, n: int, only_control: int, only_config: int) -> bool:
    pair = PairedCounts(n, only_control, only_config)
    tested = {
        "noninferior": lambda: noninferior(pair, MARGIN),
        "equivalent": lambda: equivalent(pair, MARGIN),
        "better": lambda: better(pair),
    }[kind]()
    return tested.p < LEVEL


@pytest.mark.parametrize(
    ("kind", "difference"),
    [("noninferior", -MARGIN), ("equivalent", -MARGIN), ("equivalent", MARGIN), ("better", 0.0)],
)
@pytest.mark.parametrize(("n", "discordance"), [(600, 0.05), (2000, 0.04)])
def test_a_false_claim_is_confirmed_in_2_5_percent_at_most(
    kind: str, difference: float, n: int, discordance: float
) -> None:
    rng = np.random.default_rng(1)
    shares = [(discordance - difference) / 2, (discordance + difference) / 2, 1 - discordance]
    counts = rng.multinomial(n, shares, size=SAMPLES)
    rate = np.mean([confirmed(kind, n, int(a), int(b)) for a, b, _ in counts])
    # The score test is not exact: its level is 0.025 on average, and up to 0.028 at some shares.
    assert rate < 0.029, rate


def test_a_claim_against_several_is_confirmed_in_2_5_percent_at_most() -> None:
    """Against three controls, of which one is better by exactly the margin."""
    rng = np.random.default_rng(2)
    hits = opposites = 0
    for _ in range(2000):
        tested = []
        for difference in (-MARGIN, 0.01, 0.01):
            shares = [(0.05 - difference) / 2, (0.05 + difference) / 2, 0.95]
            only_control, only_config, _ = rng.multinomial(1000, shares)
            tested.append(noninferior(PairedCounts(1000, only_control, only_config), MARGIN))
        p, p_opposite = against_all(tested)
        hits += p < LEVEL
        opposites += p_opposite < LEVEL
    assert hits / 2000 < 0.031
    assert opposites / 2000 < 0.02, "the opposite is corrected for how many controls there are"


def test_items_that_hang_together_are_less_evidence() -> None:
    """Groups of 5 items that differ all or not at all, at a true difference of -margin."""
    rng = np.random.default_rng(3)
    naive = clustered = 0
    for _ in range(2000):
        kinds = rng.choice([-1, 0, 1], p=[0.06, 0.90, 0.04], size=200)
        n, minus, plus = 200 * 5, 5 * int(sum(kinds == -1)), 5 * int(sum(kinds == 1))
        stderr = clustered_stderr([(5 * kind, 5) for kind in kinds])
        naive += noninferior(PairedCounts(n, minus, plus), MARGIN).p < LEVEL
        clustered += noninferior(PairedCounts(n, minus, plus, stderr, 200), MARGIN).p < LEVEL
    assert naive / 2000 > 0.12, naive
    assert clustered / 2000 < 0.035, clustered


def test_groups_never_make_a_claim_easier() -> None:
    pair = PairedCounts(1000, 20, 22)
    for stderr in (0.0, 0.001, 0.1):
        grouped = PairedCounts(1000, 20, 22, stderr, 12)
        for test in (noninferior, equivalent):
            assert test(grouped, MARGIN).p >= test(pair, MARGIN).p
        assert better(grouped).p >= better(pair).p
        low, high = bounds(grouped)
        assert low <= bounds(pair)[0]
        assert high >= bounds(pair)[1]


def test_samples_of_an_item_are_no_items() -> None:
    """Four samples of each item, alike: the interval is that of the items."""
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(500):
        easy = rng.random(80) < 0.7
        config = [[float(right)] * 4 for right in easy]
        control = [[float(rng.random() < 0.7)] * 2 for _ in easy]
        low, high = over_items(config, control).interval
        covered += low <= 0 <= high
    assert 0.92 <= covered / 500 <= 0.98
    assert over_items([[1, 0], [1, 1]], [[0], [1]]).value == 0.25


def test_several_models_are_as_many_estimates() -> None:
    differences = [0.01, 0.02, 0.015, 0.005, 0.03]
    mean = mean_of(differences)
    expected = stats.t.interval(0.95, 4, loc=0.016, scale=stats.sem(differences))
    assert mean.interval == pytest.approx(expected)
    assert mean.units == 5
    with pytest.raises(ValueError, match="two or more"):
        mean_of([0.01])
    with pytest.raises(ValueError, match="not the same"):
        over_items([[1]], [[1], [0]])
    with pytest.raises(ValueError, match="a sample"):
        over_items([[1], []], [[1], [0]])
