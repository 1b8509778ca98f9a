"""Paired differences against published examples, slow references and simulations."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest

from fastdllm.statistics.intervals import Z_95, difference_interval, items_needed, mcnemar_p
from tests.support.run_project import REPOSITORY

SAMPLES = 20_000


@st.composite
def pairs(draw: st.DrawFn) -> tuple[int, int, int]:
    n = draw(st.integers(1, 300))
    only_a = draw(st.integers(0, n))
    return n, only_a, draw(st.integers(0, n - only_a))


def test_published_example_of_few_pairs() -> None:
    # Fagerland, Lydersen and Laake, Statistics in Medicine 33 (2014) 2850, airway
    # hyper-responsiveness: 1, 1, 7 and 12 of 21; Tango's interval, and McNemar's exact p.
    low, high = difference_interval(21, only_a=7, only_b=1)
    assert (round(low, 3), round(high, 3)) == (-0.517, -0.026)
    assert round(mcnemar_p(7, 1), 3) == 0.070


def test_published_exact_p() -> None:
    # Armitage and Berry, Statistical Methods in Medical Research (1994), p. 127: two media for
    # cultures, 12 and 2 of 50 specimens differ.
    assert round(mcnemar_p(12, 2), 4) == 0.0129


@pytest.mark.parametrize(("only_a", "only_b", "n"), [(45, 5, 23), (30, 15, 155), (15, 5, 155)])
def test_published_numbers_of_items(only_a: int, only_b: int, n: int) -> None:
    # Worked examples of public calculators that cite Connor, shares in percent.
    assert items_needed(100, only_a, only_b) == n


def test_one_of_several_comparisons_needs_more_items() -> None:
    # z at 0.05 / 38, two-sided, is 3.2125: ((3.2125 sqrt 0.08 + 0.8416 sqrt 0.0796) / 0.02)^2
    assert items_needed(100, 3, 5, comparisons=38) == 3284
    assert items_needed(100, 3, 5) == 1568


def test_no_items_show_no_difference() -> None:
    assert items_needed(100, 7, 7) is None
    assert mcnemar_p(0, 0) == mcnemar_p(7, 7) == 1.0


@given(pair=pairs())
def test_exact_p_equals_the_binomial_test(pair: tuple[int, int, int]) -> None:
    _, only_a, only_b = pair
    if only_a + only_b:
        expected = binomtest(only_a, only_a + only_b, 0.5).pvalue
        assert mcnemar_p(only_a, only_b) == pytest.approx(expected, rel=1e-9)


@given(pair=pairs())
def test_interval_holds_the_difference_and_knows_no_direction(pair: tuple[int, int, int]) -> None:
    n, only_a, only_b = pair
    low, high = difference_interval(n, only_a, only_b)
    assert -1 <= low <= (only_b - only_a) / n <= high <= 1
    assert difference_interval(n, only_b, only_a) == pytest.approx((-high, -low))


@given(pair=pairs())
def test_interval_leaves_zero_out_where_the_plain_mcnemar_test_rejects(
    pair: tuple[int, int, int],
) -> None:
    n, only_a, only_b = pair
    statistic = abs(only_a - only_b) / math.sqrt(max(only_a + only_b, 1))
    low, high = difference_interval(n, only_a, only_b)
    if abs(statistic - Z_95) > 1e-9:
        assert (low > 0 or high < 0) == (statistic > Z_95)


@pytest.mark.parametrize("counts", [(600, 40, 12), (50, 3, 1), (200, 60, 80)])
def test_ends_of_the_interval_are_where_the_score_test_begins_to_reject(
    counts: tuple[int, int, int],
) -> None:
    n, only_a, only_b = counts
    for end in difference_interval(n, only_a, only_b):
        assert abs(slow_score(n, only_a, only_b, end)) == pytest.approx(Z_95, abs=1e-3)


def slow_score(n: int, only_a: int, only_b: int, difference: float) -> float:
    """The score statistic, its likeliest shares found by search instead of in closed form."""

    def minus_likelihood(share_a: float) -> float:
        share_b, rest = share_a + difference, 1 - 2 * share_a - difference
        parts = ((only_a, share_a), (only_b, share_b), (n - only_a - only_b, rest))
        return -sum(count * math.log(share) for count, share in parts)

    bounds = max(0.0, -difference) + 1e-12, (1 - difference) / 2 - 1e-12
    options = {"xatol": 1e-12}
    share = minimize_scalar(minus_likelihood, bounds=bounds, method="bounded", options=options).x
    variance = (2 * share + difference - difference**2) / n
    return ((only_b - only_a) / n - difference) / math.sqrt(variance)


@pytest.mark.parametrize("n", [100, 600])
@pytest.mark.parametrize(
    ("only_a", "only_b"), [(0.05, 0.05), (0.1, 0.1), (0.08, 0.03), (0.2, 0.1), (0.25, 0.02)]
)
def test_interval_covers_the_true_difference(n: int, only_a: float, only_b: float) -> None:
    """93 to 97 % of simulated samples; where a share of 0.85 is right in both or in neither.

    The rows differ in the difference and in how far both runs go together.
    """
    generator = np.random.default_rng(5)
    drawn = generator.multinomial(n, [only_a, only_b, 1 - only_a - only_b], size=SAMPLES)
    covered = 0
    for counts, times in zip(*np.unique(drawn[:, :2], axis=0, return_counts=True), strict=True):
        low, high = difference_interval(n, *map(int, counts))
        covered += int(times) * (low <= only_b - only_a <= high)
    assert 0.93 <= covered / SAMPLES <= 0.97


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_p_is_never_too_small_without_a_difference(share: float) -> None:
    generator = np.random.default_rng(6)
    differing = generator.binomial(600, share, size=SAMPLES)
    p_values = p_of(differing, generator.binomial(differing, 0.5))
    for level in (0.01, 0.05, 0.1, 0.25, 0.5):
        rejected = (p_values <= level).mean()
        assert rejected <= level + 4 * math.sqrt(level * (1 - level) / SAMPLES)


def test_p_is_uniform_without_a_difference_where_many_items_differ() -> None:
    generator = np.random.default_rng(7)
    differing = np.full(SAMPLES, 40_000)
    p_values = p_of(differing, generator.binomial(differing, 0.5))
    for level in np.linspace(0.05, 0.95, 10):
        # The steps of the exact p are 0.8 % wide here, the error of the simulation 0.7 %.
        assert (p_values <= level).mean() == pytest.approx(level, abs=0.016)


def p_of(differing: np.ndarray, only_a: np.ndarray) -> np.ndarray:
    counts, place = np.unique(
        np.stack([only_a, differing - only_a], axis=1), axis=0, return_inverse=True
    )
    return np.array([mcnemar_p(int(a), int(b)) for a, b in counts])[place.ravel()]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_number_of_items_gives_the_power_it_promises(seed: int) -> None:
    generator = np.random.default_rng(seed)
    only_b = generator.uniform(0.02, 0.1)
    only_a = only_b + generator.uniform(0.03, 0.1)
    n = items_needed(1_000_000, round(only_a * 1_000_000), round(only_b * 1_000_000))
    assert n is not None
    # As many that noise cannot carry a true power of 0.84, the largest there is here, over 0.85.
    drawn = generator.multinomial(n, [only_a, only_b, 1 - only_a - only_b], size=100_000)
    a, b = drawn[:, 0], drawn[:, 1]
    seen = np.abs(a - b) > Z_95 * np.sqrt(a + b)
    assert 0.75 < seen.mean() < 0.85


def test_the_docs_tell_how_small_a_loss_can_be_excluded() -> None:
    page = (REPOSITORY / "docs" / "statistics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d,]+) \| ([\d.]+)(?: points)? \| (.*) \|$", page, re.MULTILINE)
    assert [row[0] for row in rows] == ["100", "600", "1,319", "5,000"]
    for items, first, others in rows:
        n = int(items.replace(",", ""))
        for share, shown in zip((0, 0.02, 0.1, 0.3), [first, *others.split(" | ")], strict=True):
            one_way = round(n * share / 2)
            low, _ = difference_interval(n, one_way, one_way)
            assert 0 <= float(shown) - -100 * low < 0.1, (items, share)
