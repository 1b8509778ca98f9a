"""Uncertainty of scores and of their differences, on plain Python numbers.

Of two runs on the same n items, `only_a` are right in run a alone and `only_b` in run b alone;
differences are b - a.

Knows nothing of tasks or files; SciPy is imported in functions, so that tables and status start
quickly. How to read the numbers: docs/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

# Two-sided 95 % quantile of the standard normal distribution.
Z_95 = 1.959963984540054
# One-sided 80 % quantile of the standard normal distribution.
Z_80 = 0.8416212335729143
# Halvings of 0..1 until both ends are the same number.
HALVINGS = 54


def wilson_interval(successes: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion, as (low, high) in 0..1.

    Unlike value +- z * stderr it stays within 0..1 and keeps its width at 0 % and 100 %.
    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    Journal of the American Statistical Association 22 (1927), 209-212.

    Raises:
        ValueError: `n` is not positive, or `successes` is outside 0..n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} are not a proportion")
    share, spread = successes / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    # The exact bounds at the edges are 0 and 1; rounding would leave 1e-17 there.
    low = 0.0 if successes == 0 else middle - half
    high = 1.0 if successes == n else middle + half
    return low, high


def normal_interval(value: float, stderr: float, z: float = Z_95) -> tuple[float, float]:
    """Return value +- z * stderr, for means that are not proportions."""
    return value - z * stderr, value + z * stderr


def clustered_stderr(groups: Sequence[tuple[float, int]]) -> float | None:
    """Return the standard error of a mean over items of groups that share something.

    Items of one subject tend to be right or wrong together, so n items are less evidence than n
    independent ones: deviations are added up within each group before they are squared. None with
    fewer than two groups.

    Args:
        groups: the sum of values and the number of items of each group.

    Source: K.-Y. Liang and S. L. Zeger, "Longitudinal data analysis using generalized linear
    models", Biometrika 73 (1986), 13-22; G / (G - 1) for few groups as in A. C. Cameron and
    D. L. Miller, "A practitioner's guide to cluster-robust inference", Journal of Human Resources
    50 (2015), 317-372; for evaluations: E. Miller, "Adding error bars to evals", arXiv 2411.00640.
    """
    n = sum(size for _, size in groups)
    if len(groups) < 2 or not n:
        return None
    mean = sum(total for total, _ in groups) / n
    squares = sum((total - size * mean) ** 2 for total, size in groups)
    return math.sqrt(len(groups) / (len(groups) - 1) * squares) / n


def difference_interval(n: int, only_a: int, only_b: int, z: float = Z_95) -> tuple[float, float]:
    """Return the score interval of a paired difference of proportions, (low, high) in -1..1.

    The differences that the score test does not reject. Its coverage stays close to the nominal
    one, also where few items differ, where value +- z * stderr is too narrow.
    Source: T. Tango, "Equivalence test and confidence interval for the difference in proportions
    for the paired-sample design", Statistics in Medicine 17 (1998), 891-908.

    Raises:
        ValueError: the numbers cannot be counts of `n` items.
    """
    _check(n, only_a, only_b)
    value = (only_b - only_a) / n
    low = _border(lambda d: score_statistic(n, only_a, only_b, d) > z, -1.0, value)
    high = _border(lambda d: score_statistic(n, only_a, only_b, d) < -z, 1.0, value)
    return low, high


def _border(is_rejected: Callable[[float], bool], outside: float, inside: float) -> float:
    """Return where a test begins to reject, between a rejected and an accepted difference."""
    for _ in range(HALVINGS):
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if is_rejected(middle) else (outside, middle)
    return inside


def score_statistic(n: int, only_a: int, only_b: int, difference: float) -> float:
    """Return the score statistic of a supposed difference; standard normal if it is true.

    Source: as `difference_interval`.
    """
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
    """Return how many items would show a difference like this one in 80 % of all samples.

    This is for McNemar's test at 5 %, two-sided, if the observed shares were the true ones; for one
    of several `comparisons`, at 5 % over their number (Bonferroni, the first step of Holm). None if
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
        raise ValueError(f"{only_a} and {only_b} of {n} items cannot be counts of a pair")


def t_quantile(freedom: float, share: float) -> float:
    """Return the value below which Student's t lies with probability `share`."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))


def t_tail(freedom: float, value: float) -> float:
    """Return the probability that Student's t lies above `value`."""
    from scipy.special import stdtr

    return float(stdtr(freedom, -value))


def normal_tail(value: float) -> float:
    """Return the probability that a standard normal value lies above `value`."""
    return math.erfc(value / math.sqrt(2)) / 2


def binomial_tail(k: int, n: int) -> float:
    """Return the probability of k or more heads among n throws of a fair coin."""
    from scipy.special import bdtrc

    return float(bdtrc(k - 1, n, 0.5)) if k > 0 else 1.0
