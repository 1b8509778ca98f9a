"""Tables for programs: every figure of a run as a plain number. Imports no torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fastdllm.report.groups import PASS_KINDS, Group, Key, key_of, passes_per_answer
from fastdllm.results.summary import Summary
from fastdllm.statistics.comparison import Comparison
from fastdllm.statistics.costs import (
    layer_forwards_per_answer,
    seconds_per_answer,
    speed_conditions,
)

if TYPE_CHECKING:
    from fastdllm.report.content import RunReport

COLUMNS = [
    *("experiment", "task", "limit", "config", "metric", "accuracy", "ci_low", "ci_high"),
    *("n_items", "tokens_per_forward", *(f"{kind}_per_answer" for kind in PASS_KINDS)),
    *("layer_forwards_computed", "layer_forwards_skipped", "layer_forwards_per_answer"),
    *("seconds_per_answer", "tokens_per_s", "tokens_generated", "total_time_s"),
    *("latency_p50_s", "latency_p95_s", "truncation_rate", "peak_memory_gib"),
    *("hardware", "dtype", "batch_size", "smallest_batch_size", "out_of_memory"),
    *("baseline", "difference", "difference_low", "difference_high", "gained", "lost"),
    *("p_value", "p_holm", "n_needed", "layer_forwards_ratio", "speed_ratio"),
    *("speed_ratio_low", "speed_ratio_high", "verdict", "same_as"),
    *("git_commit", "git_dirty", "fingerprint"),
]

# Only where the runs of all experiments are known: by layer-forwards, see standings.py.
CONTROL_COLUMNS = ["control", "difference_to_control", "p_holm_to_control", "standing"]


def csv_table(groups: Sequence[Group], reports: Mapping[Key, RunReport] | None = None) -> str:
    """One line per run: shares in 0..1, seconds, GiB; what was not measured is empty.

    reports: with them, the line also shows the run beside the controls (`CONTROL_COLUMNS`).
    """
    stream = io.StringIO()
    columns = COLUMNS if reports is None else [*COLUMNS, *CONTROL_COLUMNS]
    writer = csv.DictWriter(stream, columns, lineterminator="\n", restval="")
    writer.writeheader()
    for group in groups:
        for summary, comparison in group.compared:
            row = _measured(summary) | _compared(comparison) | {"limit": group.limit}
            if reports is not None and summary.passes is not None:
                row |= _beside_controls(reports[key_of(summary)])
            writer.writerow(row)
    return stream.getvalue()


def _measured(summary: Summary) -> dict[str, object]:
    primary, passes, speed = summary.primary, summary.passes, summary.throughput
    low, high = primary.interval or (None, None)
    twin = summary.same_as
    hardware, dtype, _ = speed_conditions(summary)
    return {
        "experiment": summary.experiment,
        "task": summary.task,
        "config": summary.config,
        "metric": f"{primary.metric},{primary.filter}",
        "accuracy": summary.accuracy,
        "ci_low": low,
        "ci_high": high,
        "n_items": primary.n,
        "tokens_per_forward": summary.tokens_per_forward,
        **{f"{kind}_per_answer": round(n, 4) for kind, n in passes_per_answer(summary).items()},
        "layer_forwards_computed": passes.layer_forwards_computed if passes else None,
        "layer_forwards_skipped": passes.layer_forwards_skipped if passes else None,
        "layer_forwards_per_answer": layer_forwards_per_answer(summary),
        "seconds_per_answer": seconds_per_answer(summary),
        "tokens_per_s": speed.tokens_per_s if speed else None,
        "tokens_generated": speed.tokens_generated if speed else None,
        "total_time_s": speed.total_time_s if speed else None,
        "latency_p50_s": summary.latency_s.p50 if summary.latency_s else None,
        "latency_p95_s": summary.latency_s.p95 if summary.latency_s else None,
        "truncation_rate": summary.truncation_rate,
        "peak_memory_gib": summary.peak_memory.gib,
        "hardware": hardware,
        "dtype": dtype,
        "batch_size": summary.eval_params["batch_size"],
        "smallest_batch_size": summary.eval_params.get("smallest_batch_size"),
        "out_of_memory": summary.out_of_memory,
        "same_as": "/".join((twin.experiment, twin.config)) if twin else None,
        "git_commit": summary.git.commit if summary.git else None,
        "git_dirty": int(summary.git.dirty) if summary.git else None,
        "fingerprint": summary.fingerprint,
    }


def _compared(comparison: Comparison | None) -> dict[str, object]:
    if comparison is None:
        return {}
    paired, speed = comparison.paired, comparison.speed
    row: dict[str, object] = {
        "baseline": f"{comparison.baseline.experiment}/{comparison.baseline.config}",
        "layer_forwards_ratio": comparison.layer_forwards,
        "verdict": comparison.verdict,
    }
    if paired is not None:
        row |= {
            "difference": paired.difference,
            "difference_low": paired.interval[0],
            "difference_high": paired.interval[1],
            "gained": paired.only_b,
            "lost": paired.only_a,
            "p_value": paired.p_value,
            "p_holm": paired.p_holm,
            "n_needed": paired.n_needed,
        }
    if speed is not None:
        low, high = speed.interval or (None, None)
        row |= {"speed_ratio": speed.value, "speed_ratio_low": low, "speed_ratio_high": high}
    return row


def _beside_controls(report: RunReport) -> dict[str, object]:
    row: dict[str, object] = {"standing": str(report.standings["layer_forwards"])}
    comparison = report.finding.to_control if report.finding else None
    if comparison is not None:
        control = comparison.baseline
        row["control"] = f"{control.experiment}/{control.config}"
        if comparison.paired is not None:
            row["difference_to_control"] = comparison.paired.difference
            row["p_holm_to_control"] = comparison.paired.deciding_p
    return row
