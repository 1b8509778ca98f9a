"""Power of claims: exact against brute force, simulated against what the tests do."""

from __future__ import annotations

from math import comb

import pytest

from fastdllm.statistics.claim_tests import LEVEL, PairedCounts, better, equivalent, noninferior
from fastdllm.statistics.power import (
    Kind,
    frontier_power,
    items_for,
    paired_power,
    with_differences,
)


def confirmed(kind: Kind, pair: PairedCounts, margin: float) -> bool:
    if kind == "better":
        return better(pair).p < LEVEL
    return (noninferior if kind == "noninferior" else equivalent)(pair, margin).p < LEVEL


@pytest.mark.parametrize("kind", ["noninferior", "equivalent", "better"])
@pytest.mark.parametrize("difference", [-0.05, 0.0, 0.15])
def test_power_is_the_sum_over_all_tables(kind: Kind, difference: float) -> None:
    n, discordance, margin = 40, 0.3, 0.2
    minus, plus = (discordance - difference) / 2, (discordance + difference) / 2
    expected = sum(
        comb(n, a) * comb(n - a, b) * minus**a * plus**b * (1 - discordance) ** (n - a - b)
        for a in range(n + 1)
        for b in range(n + 1 - a)
        if confirmed(kind, PairedCounts(n, a, b), margin)
    )
    power = paired_power(kind, n, discordance=discordance, difference=difference, margin=margin)
    assert power == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("kind", "discordance", "difference", "margin", "n"),
    [
        ("noninferior", 0.032, 0.0, 0.01, 3_500),
        ("noninferior", 0.032, 0.0, 0.005, 13_600),
        ("better", 0.0445, 0.0095, 0.0, 5_360),
        ("better", 0.0445, 0.005, 0.0, 19_200),
    ],
)
def test_items_are_those_of_an_independent_simulation(
    kind: Kind, discordance: float, difference: float, margin: float, n: int
) -> None:
    """For a power of 90 %, by Monte Carlo in an audit."""
    found = items_for(
        lambda n: paired_power(
            kind, n, discordance=discordance, difference=difference, margin=margin
        ),
        0.9,
    )
    assert found == pytest.approx(n, rel=0.04)


def test_a_frontier_of_one_is_non_inferiority() -> None:
    n, margin = 2000, 0.01
    simulated = frontier_power(n, {(1,): 0.015, (-1,): 0.015, (0,): 0.97}, margin=margin)
    exact = paired_power("noninferior", n, discordance=0.03, margin=margin)
    assert simulated == pytest.approx(exact, abs=0.025)


def test_a_frontier_of_twins_is_one_of_one_and_of_strangers_their_product() -> None:
    n, margin = 2000, 0.01
    one = paired_power("noninferior", n, discordance=0.03, margin=margin)
    twins = {(1, 1): 0.015, (-1, -1): 0.015, (0, 0): 0.97}
    assert frontier_power(n, twins, margin=margin) == pytest.approx(one, abs=0.025)
    strangers = {(1, 0): 0.015, (-1, 0): 0.015, (0, 1): 0.015, (0, -1): 0.015, (0, 0): 0.94}
    assert frontier_power(n, strangers, margin=margin) == pytest.approx(one**2, abs=0.03)


def test_patterns_get_the_differences_that_are_asked_for() -> None:
    counts = {(0, 0): 900, (1, 0): 20, (1, 1): 15, (-1, -1): 8, (0, -1): 12, (-1, 1): 2}
    for wanted in ([0.0, 0.0], [0.01, -0.004]):
        shares = with_differences(counts, wanted)
        assert sum(shares.values()) == pytest.approx(1)
        for control, difference in enumerate(wanted):
            mean = sum(share * pattern[control] for pattern, share in shares.items())
            assert mean == pytest.approx(difference, abs=1e-9)
    total = sum(counts.values())
    observed = [sum(n * p[j] for p, n in counts.items()) / total for j in range(2)]
    unchanged = with_differences(counts, observed)
    assert unchanged == pytest.approx({p: n / total for p, n in counts.items()})
    with pytest.raises(ValueError, match="no shares"):
        with_differences({(0,): 90, (1,): 10}, [-0.1])


def test_what_cannot_be_shown_needs_more_than_all_items() -> None:
    assert items_for(lambda _n: 0.025, 0.9) is None
    with pytest.raises(ValueError, match="as large a share"):
        paired_power("better", 100, discordance=0.01, difference=0.02)
