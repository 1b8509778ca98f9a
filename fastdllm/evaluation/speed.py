"""Intervals of a throughput and of the ratio of two, from the tokens and seconds of chunks.

A throughput is a ratio of sums, so its error is that of the ratio estimator: how far each chunk
lies from the mean speed, weighed by its size. Says how much chunks vary, not how much a machine
varies from day to day. How to read it: docs/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Chunks = Sequence[tuple[int, float]]  # tokens, seconds


def rate_interval(chunks: Chunks) -> tuple[float, float] | None:
    """Return the 95 % interval of sum(tokens) / sum(seconds); None with fewer than two chunks.

    Source: W. G. Cochran, Sampling Techniques, 3rd edition (1977), sections 2.11 and 6.4; with
    Student's t for m - 1 degrees of freedom, on a logarithmic scale, so that it stays positive.
    """
    deviations = _deviations(chunks)
    if deviations is None:
        return None
    rate = sum(tokens for tokens, _ in chunks) / sum(seconds for _, seconds in chunks)
    factor = math.exp(_t_95(len(chunks) - 1) * math.sqrt(_variance(deviations)))
    return rate / factor, rate * factor


def ratio_interval(
    baseline: Chunks, other: Chunks, *, same_requests: bool
) -> tuple[float, float] | None:
    """Return the 95 % interval of other's rate over the baseline's.

    None where one of them has fewer than two chunks.

    same_requests: the n-th chunks of both answer the same requests, so that what makes a chunk slow
        for both cancels out; otherwise errors add up (degrees of freedom: F. E. Satterthwaite, "An
        approximate distribution of estimates of variance components", Biometrics Bulletin 2 (1946),
        110-114).
    """
    ours, theirs = _deviations(other), _deviations(baseline)
    if ours is None or theirs is None:
        return None
    rates = [sum(t for t, _ in chunks) / sum(s for _, s in chunks) for chunks in (other, baseline)]
    if same_requests:
        variance = _variance([b - a for a, b in zip(theirs, ours, strict=True)])
        freedom = float(len(ours) - 1)
    else:
        parts = [(_variance(d), len(d) - 1) for d in (ours, theirs)]
        variance = sum(part for part, _ in parts)
        spread = sum(part**2 / m for part, m in parts)
        freedom = variance**2 / spread if spread else 1.0
    factor = math.exp(_t_95(freedom) * math.sqrt(variance))
    return rates[0] / rates[1] / factor, rates[0] / rates[1] * factor


def _deviations(chunks: Chunks) -> list[float] | None:
    """Of each chunk, how far its tokens and seconds move the logarithm of the rate."""
    tokens, seconds = sum(t for t, _ in chunks), sum(s for _, s in chunks)
    if len(chunks) < 2 or not tokens or not seconds:
        return None
    return [t / tokens - s / seconds for t, s in chunks]


def _variance(deviations: Sequence[float]) -> float:
    m = len(deviations)
    return m / (m - 1) * sum(deviation**2 for deviation in deviations)


def _t_95(freedom: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))
