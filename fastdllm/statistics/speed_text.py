"""Ratios of speeds as lines of a terminal, and in words."""

from __future__ import annotations

from datetime import datetime

from fastdllm.records.speed_record import Interval, SpeedEstimate, SpeedRecord, again


def speed_table(record: SpeedRecord) -> str:
    """Return the ratios of a record as a table; ends with a line break."""
    rows = [("batch", "config", "seconds over baseline's", "CPU seconds", "s/answer", "verdict")]
    for estimate in record.estimates:
        rows.append(
            (
                str(estimate.batch_size),
                estimate.config,
                ratio_words(estimate.ratio, estimate.interval),
                ratio_words(estimate.cpu_ratio, estimate.cpu_interval),
                f"{estimate.seconds_per_answer:.4g}",
                verdict_of(record, estimate),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    head = f"{record.name}: seconds per answer over those of {record.baseline}, 95 % intervals"
    failed = [f"not to be used: {check}" for check in record.failed_checks]
    return "\n".join([head, f"  {how_measured(record)}", *failed, *lines]) + "\n"


def how_measured(record: SpeedRecord) -> str:
    """Say on what, how often and when a record was measured."""
    first, last = record.sittings[0], record.sittings[-1]
    hardware = first.hardware.name
    if first.hardware.threads is not None:
        threads = first.hardware.threads
        hardware += f" with {threads} thread" + "s" * (threads > 1)
    rounds = sum(batch.rounds for sitting in record.sittings for batch in sitting.batches)
    minutes = _minutes(first.started, last.ended)
    return (
        f"{len(record.sittings)} processes within {minutes} (from {first.started[:16]} UTC), "
        f"{rounds} rounds in turn, {hardware}, {first.dtype}"
    )


def verdict_of(record: SpeedRecord, estimate: SpeedEstimate) -> str:
    """Say whether a config is faster or slower than the baseline, if that is certain."""
    if estimate.config == again(record.baseline):
        return "(check)"
    return "a check failed" if record.failed_checks else interval_verdict(estimate.interval)


def interval_verdict(interval: Interval) -> str:
    """Say what a ratio of seconds shows, by its interval alone."""
    low, high = interval
    if high < 1:
        return "faster"
    return "slower" if low > 1 else "neither is certainly faster"


def ratio_words(ratio: float, interval: Interval) -> str:
    """Such as `0.876 (0.860 to 0.892)`."""
    return f"{ratio:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


def _minutes(start: str, end: str) -> str:
    minutes = (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds() / 60
    return f"{minutes / 60:.1f} hours" if minutes >= 90 else f"{minutes:.0f} minutes"
