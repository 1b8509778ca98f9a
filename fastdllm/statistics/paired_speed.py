"""Ratios of seconds that were measured in turn: within one sitting, and over several.

A sitting is one process. In each of its rounds every config decodes the same items, twice and in
mirrored order, so that a slow spell of the machine hits all of them; what counts of a round is the
logarithm of a config's seconds over the baseline's. Sittings at different times differ by more than
their rounds show (other memory, caches, neighbours), so a ratio stands on several of them, and its
interval is that of their mean. On plain numbers; how to read the results: docs/speed.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist, fmean, median, stdev

from fastdllm.statistics.intervals import Z_95, t_quantile

# The fewest values of which a signed-rank interval of 95 % exists.
FEWEST_RANKED = 6
# Up to here the distribution of the signed-rank statistic is counted; beyond, it is near normal.
MOST_COUNTED = 60
# The fewest sittings over which a ratio is given.
FEWEST_SITTINGS = 3
# Of each sitting: as many rounds decide how many there are.
PILOT_ROUNDS = 12
# Beside equal work this share of null checks fails by chance.
NULL_LEVEL = 0.99

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class SittingRatio:
    """A config's seconds over the baseline's in one sitting.

    value: Hodges-Lehmann median of the rounds, interval: its signed-rank interval. mean,
    mean_interval: the same with Student's t, for comparison. Both intervals cover only how rounds
    vary. None where there are too few rounds. autocorrelation: of successive rounds (lag 1).
    """

    rounds: int
    value: float
    interval: Interval | None
    mean: float
    mean_interval: Interval | None
    autocorrelation: float | None


@dataclass(frozen=True, slots=True)
class RatioOfSittings:
    """A config's seconds over the baseline's: geometric mean of the sittings, 95 % interval."""

    value: float
    interval: Interval
    sittings: int
    rounds: int

    @property
    def half_width(self) -> float:
        """How far the farther end of the interval lies from the value, as a share of it."""
        low, high = self.interval
        return max(high / self.value, self.value / low) - 1


def ratio_of_sitting(logs: Sequence[float]) -> SittingRatio:
    """Estimate a ratio from the rounds of one sitting.

    Args:
        logs: of each round, log(seconds of the config) - log(seconds of the baseline).

    Raises:
        ValueError: there is no round.
    """
    if not logs:
        raise ValueError("a sitting without a round has no ratio")
    return SittingRatio(
        rounds=len(logs),
        value=math.exp(hodges_lehmann(logs)),
        interval=_exponentials(signed_rank_interval(logs)),
        mean=math.exp(fmean(logs)),
        mean_interval=_exponentials(t_interval(logs)),
        autocorrelation=autocorrelation(logs),
    )


def ratio_of_sittings(
    sittings: Sequence[Sequence[float]], *, level: float = 0.95
) -> RatioOfSittings | None:
    """Estimate a ratio over several sittings; None with fewer than three.

    Student's interval of the mean of the sittings' medians, which are independent of each other
    however the rounds of one hang together.

    Args:
        sittings: for each, its rounds, as for `ratio_of_sitting`.
    """
    if len(sittings) < FEWEST_SITTINGS:
        return None
    centres = [hodges_lehmann(logs) for logs in sittings]
    interval = _exponentials(t_interval(centres, level=level))
    assert interval is not None, "three or more values have an interval"
    return RatioOfSittings(
        math.exp(fmean(centres)), interval, len(sittings), sum(len(logs) for logs in sittings)
    )


def hodges_lehmann(values: Sequence[float]) -> float:
    """Return the median of all averages of two values, each with itself included.

    A few rounds of a slow spell hardly move it.
    Source: J. L. Hodges and E. L. Lehmann, "Estimates of location based on rank tests", Annals of
    Mathematical Statistics 34 (1963), 598-611.
    """
    return median(_averages(values))


def signed_rank_interval(values: Sequence[float], *, level: float = 0.95) -> Interval | None:
    """Return the interval of the Hodges-Lehmann median; None with fewer than six values.

    The values that Wilcoxon's signed-rank test does not reject: from the k-th smallest to the k-th
    largest average.
    Source: M. Hollander, D. A. Wolfe and E. Chicken, Nonparametric Statistical Methods, 3rd edition
    (2014), section 3.3.
    """
    if len(values) < FEWEST_RANKED:
        return None
    averages = sorted(_averages(values))
    k = _rejected(len(values), (1 - level) / 2)
    return averages[k - 1], averages[-k]


def t_interval(values: Sequence[float], *, level: float = 0.95) -> Interval | None:
    """Return Student's interval of the mean; None with fewer than two values."""
    n = len(values)
    if n < 2:
        return None
    centre = fmean(values)
    half = t_quantile(n - 1, (1 + level) / 2) * stdev(values) / math.sqrt(n)
    return centre - half, centre + half


def autocorrelation(values: Sequence[float]) -> float | None:
    """Return the correlation of successive values (lag 1); None of equal or too few ones."""
    if len(values) < 3:
        return None
    centre = fmean(values)
    spread = sum((value - centre) ** 2 for value in values)
    if not spread:
        return None
    return sum((a - centre) * (b - centre) for a, b in pairwise(values)) / spread


def rounds_needed(logs: Sequence[float], precision: float) -> int:
    """Return how many rounds give an interval of +- `precision`, by those of a pilot.

    Fixed after the pilot, whatever later rounds show: to measure until an interval looks good would
    make it too narrow.
    Source: C. Stein, "A two-sample test for a linear hypothesis whose power is independent of the
    variance", Annals of Mathematical Statistics 16 (1945), 243-258; 3 more rounds in place of t.
    """
    return math.ceil((Z_95 * stdev(logs) / math.log1p(precision)) ** 2) + 3


def _averages(values: Sequence[float]) -> list[float]:
    return [(value + other) / 2 for index, value in enumerate(values) for other in values[index:]]


def _exponentials(interval: Interval | None) -> Interval | None:
    return None if interval is None else (math.exp(interval[0]), math.exp(interval[1]))


def _rejected(n: int, tail: float) -> int:
    """Return the largest k for which the signed-rank statistic is below k with at most `tail`."""
    if n > MOST_COUNTED:
        mean, variance = n * (n + 1) / 4, n * (n + 1) * (2 * n + 1) / 24
        # Half a rank, as ranks are whole.
        return math.floor(mean + NormalDist().inv_cdf(tail) * math.sqrt(variance) + 0.5)
    ways = [1]
    for rank in range(1, n + 1):
        longer = [*ways, *[0] * rank]
        for total, number in enumerate(ways):
            longer[total + rank] += number
        ways = longer
    below, k = 0, 0
    while (below + ways[k]) / 2**n <= tail:
        below += ways[k]
        k += 1
    return k
