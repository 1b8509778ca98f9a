"""Differences where an item is answered several times, or by several trained models.

Samples of one item are no items: they are averaged within it. Models trained from other seeds are
what a method is about: each gives one estimate, and the interval is that over models. On plain
numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from fastdllm.statistics.intervals import t_quantile


@dataclass(frozen=True, slots=True)
class MeanOfMany:
    """A mean over independent units (items, models), with its 95 % interval (Student's t)."""

    value: float
    stderr: float
    interval: tuple[float, float]
    units: int


def over_items(config: Sequence[Sequence[float]], control: Sequence[Sequence[float]]) -> MeanOfMany:
    """Estimate config - control where items are answered several times.

    Args:
        config, control: for each item the scores of its samples, of which both may have other
            numbers; the same items in the same order.

    Raises:
        ValueError: other numbers of items, fewer than two, or an item without a sample.
    """
    if len(config) != len(control):
        raise ValueError(f"{len(config)} and {len(control)} items are not the same ones")
    if not all([*config, *control]):
        raise ValueError("each item needs a sample in both")
    return mean_of(fmean(a) - fmean(b) for a, b in zip(config, control, strict=True))


def mean_of(values: Iterable[float]) -> MeanOfMany:
    """Return the mean of independent values, such as one difference per trained model.

    Raises:
        ValueError: fewer than two of them.
    """
    units = list(values)
    if len(units) < 2:
        raise ValueError(f"{len(units)} of two or more values, which an interval needs")
    value, stderr = fmean(units), stdev(units) / math.sqrt(len(units))
    half = t_quantile(len(units) - 1, 0.975) * stderr
    return MeanOfMany(value, stderr, (value - half, value + half), len(units))
