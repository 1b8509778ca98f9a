"""From the rounds of all sittings to the ratios in speed.json, and what is said about them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median

from fastdllm.records.speed_record import (
    BatchRounds,
    Sitting,
    SittingEstimate,
    SpeedEstimate,
    again,
)
from fastdllm.statistics.paired_speed import (
    NULL_LEVEL,
    PILOT_ROUNDS,
    ratio_of_sitting,
    ratio_of_sittings,
    rounds_needed,
)

# Beyond this many rounds of a sitting a wanted precision is given up: something else is wrong.
MOST_ROUNDS = 60
# Digits that are kept of an estimate.
DIGITS = 6

Columns = Callable[[BatchRounds], dict[str, list[tuple[float, float]]]]


def estimates_of(sittings: Sequence[Sitting], baseline: str) -> list[SpeedEstimate]:
    """SpeedEstimate every config's ratio to the baseline at every batch size.

    Args:
        sittings: three or more, of the same configs and batch sizes.
    """
    sizes = [rounds.batch_size for rounds in sittings[0].batches]
    return [
        _estimate([at_batch_size(sitting, size) for sitting in sittings], config, baseline)
        for size in sizes
        for config in at_batch_size(sittings[0], size).seconds
        if config != baseline
    ]


def failed_checks(sittings: Sequence[Sitting], baseline: str) -> list[str]:
    """Name the batch sizes at which the baseline differs from itself; empty if all is well.

    Its second name is a config like any other, so its interval has to hold 1; at 99 %, as of many
    measurements some would fail at 95 % by chance.
    """
    failed = []
    for rounds in sittings[0].batches:
        size = rounds.batch_size
        logs = [log_ratios(at_batch_size(s, size), again(baseline), baseline) for s in sittings]
        ratio = ratio_of_sittings(logs, level=NULL_LEVEL)
        if ratio is not None and not ratio.interval[0] <= 1 <= ratio.interval[1]:
            failed.append(
                f"batch {size}: {baseline} took {ratio.value:.3f} of its own seconds when it was "
                "timed under a second name, which is more than chance"
            )
    return failed


def rounds_planned(pilot: BatchRounds, baseline: str, *, sittings: int, precision: float) -> int:
    """Return the rounds of each sitting, by the first rounds of the first one.

    Enough for the least certain config, and never fewer than those of the pilot.
    """
    needed = max(
        rounds_needed(log_ratios(pilot, config, baseline)[:PILOT_ROUNDS], precision)
        for config in pilot.seconds
        if config != baseline
    )
    return min(max(PILOT_ROUNDS, math.ceil(needed / sittings)), MOST_ROUNDS)


def log_ratios(
    rounds: BatchRounds, config: str, baseline: str, *, columns: Columns = lambda r: r.seconds
) -> list[float]:
    """Return of each round log(seconds of the config) - log(seconds of the baseline)."""
    ours, theirs = columns(rounds)[config], columns(rounds)[baseline]
    return [math.log(sum(a)) - math.log(sum(b)) for a, b in zip(ours, theirs, strict=True)]


def _estimate(batches: Sequence[BatchRounds], config: str, baseline: str) -> SpeedEstimate:
    def ratio(columns: Columns) -> tuple[float, tuple[float, float], int]:
        logs = [log_ratios(b, config, baseline, columns=columns) for b in batches]
        over = ratio_of_sittings(logs)
        assert over is not None, "a record is made of three sittings or more"
        return _rounded(over.value), _rounded_pair(over.interval), over.rounds

    value, interval, rounds = ratio(lambda r: r.seconds)
    cpu_value, cpu_interval, _ = ratio(lambda r: r.cpu_seconds)
    answers = sum(2 * b.items * b.rounds for b in batches)
    seconds = sum(sum(pair) for b in batches for pair in b.seconds[config])
    tokens = sum(2 * sum(b.tokens[config]) for b in batches)
    return SpeedEstimate(
        config=config,
        batch_size=batches[0].batch_size,
        ratio=value,
        interval=interval,
        cpu_ratio=cpu_value,
        cpu_interval=cpu_interval,
        seconds_per_answer=_rounded(seconds / answers),
        tokens_per_answer=_rounded(tokens / answers),
        rounds=rounds,
        sittings=[_estimate_of_sitting(b, config, baseline) for b in batches],
    )


def _estimate_of_sitting(rounds: BatchRounds, config: str, baseline: str) -> SittingEstimate:
    ratio = ratio_of_sitting(log_ratios(rounds, config, baseline))
    return SittingEstimate(
        ratio=_rounded(ratio.value),
        interval=_rounded_pair(ratio.interval) if ratio.interval else None,
        mean=_rounded(ratio.mean),
        mean_interval=_rounded_pair(ratio.mean_interval) if ratio.mean_interval else None,
        autocorrelation=None if ratio.autocorrelation is None else _rounded(ratio.autocorrelation),
        halves=_rounded(median(first / second for first, second in rounds.seconds[config])),
    )


def at_batch_size(sitting: Sitting, batch_size: int) -> BatchRounds:
    """Return the rounds of a sitting at one batch size, which it has."""
    return next(rounds for rounds in sitting.batches if rounds.batch_size == batch_size)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _rounded_pair(pair: tuple[float, float]) -> tuple[float, float]:
    return _rounded(pair[0]), _rounded(pair[1])
