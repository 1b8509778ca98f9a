"""Intervals of speeds: a worked example, and simulated machines."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastdllm.statistics.intervals import rate_interval, ratio_interval

Chunks = list[tuple[int, float]]


def test_worked_example() -> None:
    chunks = [(100, 1.0), (200, 2.2), (150, 1.4)]
    # Each chunk's share of the tokens minus its share of the seconds: 0.00483, -0.03382, 0.02899;
    # times t(2) = 4.3027, the half width of the logarithm is 0.2361.
    half = 4.302653 * math.sqrt(1.5 * (0.0048309**2 + 0.0338164**2 + 0.0289855**2))
    low, high = rate_interval(chunks)
    assert math.log(high / low) / 2 == pytest.approx(half, rel=1e-4)
    assert half == pytest.approx(0.2361, abs=1e-4)
    assert math.sqrt(low * high) == pytest.approx(450 / 4.6)


def test_one_chunk_has_no_interval() -> None:
    assert rate_interval([(100, 1.0)]) is None
    assert rate_interval([(0, 1.0), (0, 1.0)]) is None
    assert ratio_interval([(100, 1.0)], [(1, 1.0), (2, 2.0)], same_requests=False) is None


def test_chunks_of_equal_speed_leave_no_doubt() -> None:
    steady, twice = [(100, 1.0), (50, 0.5), (200, 2.0)], [(200, 1.0), (100, 0.5), (400, 2.0)]
    assert rate_interval(steady) == pytest.approx((100, 100))
    for same in (True, False):
        assert ratio_interval(steady, twice, same_requests=same) == pytest.approx((2, 2))


def a_run(generator: np.random.Generator, hardness: np.ndarray, speed: float) -> Chunks:
    """Chunks of about 500 tokens; hard ones are slow in every run, and each varies by itself."""
    tokens = generator.integers(300, 700, size=len(hardness))
    noise = generator.lognormal(0.0, 0.1, size=len(hardness))
    seconds = tokens / speed * hardness * noise
    return [(int(t), float(s)) for t, s in zip(tokens, seconds, strict=True)]


def true_rate(speed: float) -> float:
    """Of very many chunks: the mean of the two lognormal factors divides the speed."""
    return speed / math.exp((0.2**2 + 0.1**2) / 2)


def test_interval_covers_the_true_rate() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(3000):
        hardness = generator.lognormal(0.0, 0.2, size=25)
        low, high = rate_interval(a_run(generator, hardness, 1000.0))
        covered += low <= true_rate(1000.0) <= high
    assert 0.93 <= covered / 3000 <= 0.97


@pytest.mark.parametrize("same_requests", [True, False])
def test_interval_covers_the_true_ratio(same_requests: bool) -> None:
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(3000):
        hardness = generator.lognormal(0.0, 0.2, size=25)
        other = hardness if same_requests else generator.lognormal(0.0, 0.2, size=25)
        pair = a_run(generator, hardness, 1000.0), a_run(generator, other, 1300.0)
        low, high = ratio_interval(*pair, same_requests=same_requests)
        covered += low <= 1.3 <= high
    assert 0.93 <= covered / 3000 <= 0.97


def test_what_slows_both_runs_down_cancels_out() -> None:
    generator = np.random.default_rng(3)
    hardness = generator.lognormal(0.0, 0.5, size=25)
    pair = a_run(generator, hardness, 1000.0), a_run(generator, hardness, 1300.0)
    widths = [
        high - low
        for low, high in (ratio_interval(*pair, same_requests=same) for same in (True, False))
    ]
    assert widths[0] < widths[1] / 2
