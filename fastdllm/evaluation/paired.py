"""Two runs on the same items: what their difference is, and how sure one can be of it.

Plain numbers in and out: of n items `only_a` are right in run a alone, `only_b` in run b alone.
Differences are b - a. How to read them: docs/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

from fastdllm.evaluation.stats import Z_95

# One-sided 80 % quantile of the standard normal distribution.
Z_80 = 0.8416212335729143
# Halvings of 0..1 until both ends are the same number.
HALVINGS = 54


def difference_interval(n: int, only_a: int, only_b: int, z: float = Z_95) -> tuple[float, float]:
    """Return the score interval of a paired difference of proportions, (low, high) in -1..1.

    The differences that the score test does not reject. Its coverage stays close to the nominal
    one, also where few items differ, where value +- z * stderr is too narrow.
    Source: T. Tango, "Equivalence test and confidence interval for the difference in proportions
    for the paired-sample design", Statistics in Medicine 17 (1998), 891-908.

    Raises:
        ValueError: the numbers are no counts of `n` items.
    """
    _check(n, only_a, only_b)
    value = (only_b - only_a) / n
    low = _border(lambda d: _score(n, only_a, only_b, d) > z, -1.0, value)
    high = _border(lambda d: _score(n, only_a, only_b, d) < -z, 1.0, value)
    return low, high


def _border(is_rejected: Callable[[float], bool], outside: float, inside: float) -> float:
    """Where a test begins to reject, between a rejected and an accepted difference."""
    for _ in range(HALVINGS):
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if is_rejected(middle) else (outside, middle)
    return inside


def _score(n: int, only_a: int, only_b: int, difference: float) -> float:
    """The score statistic of a supposed difference; standard normal where it is the true one."""
    distance = only_b - only_a - n * difference
    # The likeliest share of items that are right in a alone, if `difference` is the true one.
    linear = (2 * n + only_a - only_b) * difference - only_a - only_b
    constant = -only_a * difference * (1 - difference)
    share = (math.sqrt(max(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = n * (2 * share + difference * (1 - difference))
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def mcnemar_p(only_a: int, only_b: int) -> float:
    """Return the two-sided p-value of McNemar's test in its exact form.

    Of the items that differ, each would fall to either run with probability 1/2 if there was no
    difference: twice the smaller binomial tail, at most 1. Conservative, as counts are whole.
    Source: Q. McNemar, "Note on the sampling error of the difference between correlated proportions
    or percentages", Psychometrika 12 (1947), 153-157; exact: F. Mosteller, "Some statistical
    problems in measuring the subjective response to drugs", Biometrics 8 (1952), 220-226.
    """
    from scipy.special import bdtr

    differing = only_a + only_b
    return min(1.0, 2 * float(bdtr(min(only_a, only_b), differing, 0.5))) if differing else 1.0


def items_needed(n: int, only_a: int, only_b: int, *, comparisons: int = 1) -> int | None:
    """Return how many items show a difference like this one in 80 % of all samples.

    With McNemar's test at 5 %, two-sided, if the observed shares were the true ones; as one of
    several `comparisons` at 5 % over their number (Bonferroni, the first step of Holm). None where
    there is no difference.
    Source: R. J. Connor, "Sample size for testing differences in proportions for the paired-sample
    design", Biometrics 43 (1987), 207-211.
    """
    _check(n, only_a, only_b)
    if only_a == only_b:
        return None
    differing, difference = (only_a + only_b) / n, (only_b - only_a) / n
    z_level = NormalDist().inv_cdf(1 - 0.025 / comparisons)
    root = z_level * math.sqrt(differing) + Z_80 * math.sqrt(differing - difference**2)
    return math.ceil((root / difference) ** 2)


def _check(n: int, only_a: int, only_b: int) -> None:
    if n < 1 or only_a < 0 or only_b < 0 or only_a + only_b > n:
        raise ValueError(f"{only_a} and {only_b} of {n} items are no counts of a pair")
