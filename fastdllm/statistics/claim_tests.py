"""Tests of claims on plain numbers: each one-sided at 0.025, with the p of its opposite.

Differences are config - control. A test and its bound agree: p is below 0.025 exactly where the
bound is beyond the margin. Where items hang together (groups), the less certain of the score test
and the clustered one counts. What each kind claims: docs/claims.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from fastdllm.statistics.intervals import (
    Z_95,
    binomial_tail,
    difference_interval,
    normal_tail,
    score_statistic,
    t_quantile,
    t_tail,
)

LEVEL = 0.025


@dataclass(frozen=True, slots=True)
class PairedCounts:
    """The same items in two configs: those that are right in one of both only.

    stderr: clustered, of the difference; groups: how many there are. None without groups.
    """

    n: int
    only_control: int
    only_config: int
    stderr: float | None = None
    groups: int | None = None

    @property
    def difference(self) -> float:
        return (self.only_config - self.only_control) / self.n


@dataclass(frozen=True, slots=True)
class Tested:
    """A claim against one control.

    estimate and interval: of the difference, or of the ratio; each end is a bound at 0.025. p: of
    the claim; p_opposite: of the opposite that would contradict it.
    """

    estimate: float
    interval: tuple[float, float]
    p: float
    p_opposite: float


def noninferior(pair: PairedCounts, margin: float) -> Tested:
    """Test that the config loses less than `margin`; its opposite: that it loses more."""
    return Tested(pair.difference, bounds(pair), _p_above(pair, -margin), _p_below(pair, -margin))


def equivalent(pair: PairedCounts, margin: float) -> Tested:
    """Test that the difference is within +- `margin` (two one-sided tests, the larger p).

    Its opposite: that it is beyond one of both, which counts twice as it has two chances.
    """
    return Tested(
        pair.difference,
        bounds(pair),
        max(_p_above(pair, -margin), _p_below(pair, margin)),
        min(1.0, 2 * min(_p_below(pair, -margin), _p_above(pair, margin))),
    )


def better(pair: PairedCounts) -> Tested:
    """Test that the config is right more often (exact McNemar); its opposite: less often."""
    more = binomial_tail(pair.only_config, pair.only_config + pair.only_control)
    less = binomial_tail(pair.only_control, pair.only_config + pair.only_control)
    if pair.stderr is not None:
        more = max(more, _clustered_p(pair, pair.difference))
        less = max(less, _clustered_p(pair, -pair.difference))
    return Tested(pair.difference, bounds(pair), more, less)


def ratio_below(logs: Sequence[float], limit: float) -> Tested:
    """Test that a ratio of seconds is below `limit`; its opposite: that it is above.

    Args:
        logs: of each sitting, the logarithm of the ratio; two or more.
    """
    freedom, centre = len(logs) - 1, fmean(logs)
    stderr = stdev(logs) / math.sqrt(len(logs))
    half = t_quantile(freedom, 1 - LEVEL) * stderr
    distance = math.log(limit) - centre
    t = distance / stderr if stderr else math.copysign(math.inf, distance)
    return Tested(
        math.exp(centre),
        (math.exp(centre - half), math.exp(centre + half)),
        t_tail(freedom, t),
        t_tail(freedom, -t),
    )


def against_all(tested: Sequence[Tested]) -> tuple[float, float]:
    """Return p of a claim that holds against each of several controls, and of its opposite.

    All have to hold, so the largest p counts and nothing is corrected (intersection-union test).
    The opposite is that one fails: the smallest p, times their number.
    Source: R. L. Berger, "Multiparameter hypothesis testing and acceptance sampling", Technometrics
    24 (1982), 295-300.
    """
    smallest = min(test.p_opposite for test in tested)
    return max(test.p for test in tested), min(1.0, len(tested) * smallest)


def bounds(pair: PairedCounts) -> tuple[float, float]:
    """Return both bounds of the difference: Tango's, or the clustered one where it is wider."""
    low, high = difference_interval(pair.n, pair.only_control, pair.only_config, Z_95)
    if pair.stderr is None or pair.groups is None:
        return low, high
    half = t_quantile(pair.groups - 1, 1 - LEVEL) * pair.stderr
    return min(low, pair.difference - half), max(high, pair.difference + half)


def _p_above(pair: PairedCounts, limit: float) -> float:
    """Return p of the difference being above `limit`."""
    score = score_statistic(pair.n, pair.only_control, pair.only_config, limit)
    p = normal_tail(score)
    return p if pair.stderr is None else max(p, _clustered_p(pair, pair.difference - limit))


def _p_below(pair: PairedCounts, limit: float) -> float:
    """Return p of the difference being below `limit`."""
    score = score_statistic(pair.n, pair.only_control, pair.only_config, limit)
    p = normal_tail(-score)
    return p if pair.stderr is None else max(p, _clustered_p(pair, limit - pair.difference))


def _clustered_p(pair: PairedCounts, distance: float) -> float:
    assert pair.stderr is not None and pair.groups is not None
    if not pair.stderr:
        # No item differs, or all groups alike: nothing to learn from how groups vary.
        return 0.0 if distance > 0 else 1.0
    return t_tail(pair.groups - 1, distance / pair.stderr)
