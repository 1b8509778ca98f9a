"""Uncertainty of a score: intervals, standard errors, percentiles on plain Python numbers.

Knows nothing of tasks or files and imports nothing heavy, so that tables and status can use it. Two
runs against each other: paired.py and speed.py; how to read it all: docs/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

# Two-sided 95 % quantile of the standard normal distribution.
Z_95 = 1.959963984540054


def wilson_interval(successes: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion, as (low, high) in 0..1.

    Unlike value +- z * stderr it stays within 0..1 and keeps its width at 0 % and 100 %.
    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    Journal of the American Statistical Association 22 (1927), 209-212.

    Raises:
        ValueError: `n` is not positive, or `successes` is outside 0..n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} are no proportion")
    share, spread = successes / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    # The exact bounds at the edges are 0 and 1; rounding would leave 1e-17 there.
    low = 0.0 if successes == 0 else middle - half
    high = 1.0 if successes == n else middle + half
    return low, high


def normal_interval(value: float, stderr: float, z: float = Z_95) -> tuple[float, float]:
    """Return value +- z * stderr: for means that are no proportions."""
    return value - z * stderr, value + z * stderr


def clustered_stderr(groups: Sequence[tuple[float, int]]) -> float | None:
    """Return the standard error of a mean over items of groups that share something.

    Items of one subject are right or wrong together, so that n items tell less than n independent
    ones: deviations are added up within each group before they are squared. None with fewer than
    two groups.

    Args:
        groups: of each group the sum of its values and its number of items.

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


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for how many there are, in the order given.

    Calling those below 0.05 a difference is wrong anywhere among them with probability 5 % at most.
    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal
    of Statistics 6 (1979), 65-70.
    """
    corrected, highest = [0.0] * len(p_values), 0.0
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile (0..100) with linear interpolation between neighbours.

    Source: type 7 of Hyndman and Fan, "Sample quantiles in statistical packages", The American
    Statistician 50 (1996), 361-365; the default of NumPy and R.

    Raises:
        ValueError: `values` is empty.
    """
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
