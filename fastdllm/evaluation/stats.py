"""Uncertainty of a score: intervals and percentiles on plain Python numbers.

Knows nothing of tasks or files and imports nothing heavy, so that tables and status can use it.
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
