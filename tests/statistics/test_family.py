"""Correction over comparisons that hang together: exact cases, level, and power against Holm."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest

from fastdllm.statistics.family import max_t
from fastdllm.statistics.intervals import mcnemar_p


def bits(*items: int) -> int:
    return int("".join(map(str, items)), 2)


def exact(n: int, pairs: list[tuple[int, int]]) -> list[float]:
    """The same by all assignments of signs, comparison by comparison."""
    rows = [[((b >> n - 1 - i) & 1) - ((a >> n - 1 - i) & 1) for i in range(n)] for a, b in pairs]

    def statistic(row: list[int], signs: tuple[int, ...]) -> float:
        differing = sum(map(abs, row)) or 1
        return abs(sum(d * s for d, s in zip(row, signs, strict=True))) / differing**0.5

    observed = [statistic(row, (1,) * n) for row in rows]
    every = list(product((1, -1), repeat=n))
    p_values = []
    for index in range(len(rows)):
        others = [k for k in range(len(rows)) if observed[k] <= observed[index]]
        reached = sum(
            max(statistic(rows[k], signs) for k in others) >= observed[index] - 1e-9
            for signs in every
        )
        p_values.append(reached / len(every))
    return [
        max(p for p, o in zip(p_values, observed, strict=True) if o >= observed[index] - 1e-12)
        for index in range(len(rows))
    ]


def test_p_values_are_those_of_all_assignments_of_signs() -> None:
    rng = Random(3)
    n = 10
    for _ in range(5):
        pairs = []
        for _ in range(4):
            kinds = [rng.choice("ab..") for _ in range(n)]
            pairs.append(
                (
                    bits(*(int(k == "a") for k in kinds)),
                    bits(*(int(k == "b") for k in kinds)),
                )
            )
        assert max_t(n, pairs) == pytest.approx(exact(n, pairs), abs=0.02)


def test_one_comparison_has_the_p_value_of_mcnemar() -> None:
    pair = (bits(*[1] * 12, *[0] * 88), bits(*[0] * 12, *[1] * 3, *[0] * 85))
    (p,) = max_t(100, [pair])
    assert p == pytest.approx(mcnemar_p(12, 3), abs=0.006)


def test_no_item_differs() -> None:
    assert max_t(8, [(0, 0), (0, 0)]) == [1.0, 1.0]
    assert max_t(8, []) == []


def test_a_copy_of_a_comparison_costs_nothing() -> None:
    rng = Random(5)
    a, b = rng.getrandbits(60) << 40, rng.getrandbits(20)
    alone = max_t(100, [(a, b)])[0]
    assert max_t(100, [(a, b)] * 40) == [alone] * 40


def test_the_same_numbers_each_time() -> None:
    rng = Random(6)
    pairs = [(rng.getrandbits(30) << 30, rng.getrandbits(30)) for _ in range(5)]
    assert max_t(60, pairs) == max_t(60, pairs)


def test_level_holds_and_twins_cost_less_than_apart() -> None:
    """20 comparisons without a difference, nearly the same items: 5 % of the families reject."""
    rng, families, rejected, sums = Random(8), 400, 0, [0.0, 0.0]
    n, differing = 400, 40
    for _ in range(families):
        shared = [rng.random() < 0.5 for _ in range(differing)]
        pairs = []
        for _ in range(20):
            signs = [s if rng.random() < 0.9 else not s for s in shared]
            lost = sum(1 << i for i, s in enumerate(signs) if s)
            pairs.append((lost, ~lost & (1 << differing) - 1))
        smallest = min(max_t(n, pairs, seed=rng.getrandbits(32)))
        rejected += smallest < 0.05
        p_values = [mcnemar_p(a.bit_count(), b.bit_count()) for a, b in pairs]
        sums = [sums[0] + smallest, sums[1] + min(1.0, 20 * min(p_values))]
    assert 0.025 <= rejected / families <= 0.08
    assert sums[0] < 0.7 * sums[1]
