"""The ratio of seconds between two runs, where both were timed in turn (docs/speed.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastdllm.records.speed_record import SpeedRecord
from fastdllm.records.summary import Summary
from fastdllm.statistics.comparison import Comparison
from fastdllm.statistics.measured_speed import at_batch_size, log_ratios
from fastdllm.statistics.paired_speed import RatioOfSittings, ratio_of_sittings
from fastdllm.statistics.speed_text import how_measured, interval_verdict, ratio_words


@dataclass(frozen=True, slots=True)
class RatioBetween:
    """Seconds per answer of one run over those of another, at one batch size."""

    record: SpeedRecord
    batch_size: int
    ratio: RatioOfSittings

    @property
    def words(self) -> str:
        """Such as `0.876 (0.860 to 0.892) of the seconds at batch size 1, faster`."""
        verdict = interval_verdict(self.ratio.interval)
        if self.record.failed_checks:
            verdict = "not to be used, as a check failed"
        ratio = ratio_words(self.ratio.value, self.ratio.interval)
        return f"{ratio} of the seconds at batch size {self.batch_size}, {verdict}"


def ratios_between(
    baseline: Summary, other: Summary, records: Sequence[SpeedRecord]
) -> list[RatioBetween]:
    """Return the ratios of two runs, from the first record that has both."""
    for record in records:
        names = config_in(record, baseline), config_in(record, other)
        if None in names or names[0] == names[1]:
            continue
        a, b = str(names[0]), str(names[1])
        return [
            RatioBetween(record, size, ratio)
            for size in (rounds.batch_size for rounds in record.sittings[0].batches)
            if (ratio := _ratio(record, size, a, b)) is not None
        ]
    return []


def config_in(record: SpeedRecord, run: Summary) -> str | None:
    """Return the name under which a record has a run, or its computation; None if it does not.

    Both are of the current settings; a summary may name its computation by an older rule.
    """
    computations: Any = record.decides.get("computations")
    if not isinstance(computations, dict) or run.task != record.task:
        return None
    own = {f"{run.experiment}/{run.config}"}
    if run.experiment == record.experiment:
        own.add(run.config)
    digest = run.computation
    found = (
        str(name)
        for name, computation in computations.items()
        if name in own or (digest is not None and computation == digest)
    )
    return next(found, None)


def speed_sentence(comparison: Comparison, records: Sequence[SpeedRecord]) -> str:
    """Say how the seconds of both runs compare, or why that is not known."""
    found = ratios_between(comparison.baseline, comparison.other, records)
    if found:
        measured = how_measured(found[0].record)
        return f"b takes {'; '.join(ratio.words for ratio in found)} ({measured})"
    if comparison.baseline.passes is None or comparison.other.passes is None:
        return "nothing is generated in a log-likelihood task"
    return (
        "not compared: tokens/s of runs timed apart differ by 10 to 20 % for equal work; name both "
        "under speed: in an experiment.yaml, and type snakemake speed"
    )


def _ratio(record: SpeedRecord, size: int, baseline: str, config: str) -> RatioOfSittings | None:
    logs = [log_ratios(at_batch_size(s, size), config, baseline) for s in record.sittings]
    return ratio_of_sittings(logs)
