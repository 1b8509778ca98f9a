"""CSV tables: every figure of a run as a plain number."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from fastdllm.records.summary import Summary
from fastdllm.report.axes import OF_PASSES
from fastdllm.report.groups import PASS_KINDS, Group, RunKey, key_of, passes_per_answer
from fastdllm.report.published_figures import accuracies, figures_of, figures_text
from fastdllm.statistics.busy import processor_share
from fastdllm.statistics.comparison import Comparison
from fastdllm.statistics.costs import (
    layer_forwards_per_answer,
    position_forwards_per_answer,
    seconds_per_answer,
    speed_conditions,
    tokens_per_s,
)

if TYPE_CHECKING:
    from fastdllm.report.content import RunReport


def _passes_of(kind: str) -> Callable[[Summary], float | None]:
    return lambda run: round(passes_per_answer(run)[kind], 4) if run.passes else None


# Name and value of each column; None is an empty cell.
RUN_COLUMNS: dict[str, Callable[[Summary], object]] = {
    "experiment": lambda run: run.experiment,
    "task": lambda run: run.task,
    "limit": lambda run: key_of(run)[2],
    "config": lambda run: run.config,
    "metric": lambda run: f"{run.primary.metric},{run.primary.filter}",
    "accuracy": lambda run: run.accuracy,
    "ci_low": lambda run: run.primary.interval and run.primary.interval[0],
    "ci_high": lambda run: run.primary.interval and run.primary.interval[1],
    "n_items": lambda run: run.primary.n,
    "tokens_per_forward": lambda run: run.tokens_per_forward,
    **{f"{kind}_per_answer": _passes_of(kind) for kind in PASS_KINDS},
    "layer_forwards_computed": lambda run: run.passes and run.passes.layer_forwards_computed,
    "layer_forwards_skipped": lambda run: run.passes and run.passes.layer_forwards_skipped,
    "layer_forwards_per_answer": layer_forwards_per_answer,
    "position_forwards_per_answer": position_forwards_per_answer,
    "seconds_per_answer": seconds_per_answer,
    "tokens_per_s": tokens_per_s,
    "tokens_generated": lambda run: run.throughput and run.throughput.tokens_generated,
    "total_time_s": lambda run: run.throughput and run.throughput.total_time_s,
    "processor_share": processor_share,
    "latency_p50_s": lambda run: run.latency_s and run.latency_s.p50,
    "latency_p95_s": lambda run: run.latency_s and run.latency_s.p95,
    "truncation_rate": lambda run: run.truncation_rate,
    "peak_memory_gib": lambda run: run.peak_memory.gib,
    "hardware": lambda run: speed_conditions(run)[0],
    "dtype": lambda run: run.dtype,
    "batch_size": lambda run: run.eval_params["batch_size"],
    "smallest_batch_size": lambda run: run.eval_params.get("smallest_batch_size"),
    "out_of_memory": lambda run: run.out_of_memory,
}
COMPARISON_COLUMNS: dict[str, Callable[[Comparison], object]] = {
    "baseline": lambda to: f"{to.baseline.experiment}/{to.baseline.config}",
    "difference": lambda to: to.paired and to.paired.difference,
    "difference_low": lambda to: to.paired and to.paired.interval[0],
    "difference_high": lambda to: to.paired and to.paired.interval[1],
    "gained": lambda to: to.paired and to.paired.only_b,
    "lost": lambda to: to.paired and to.paired.only_a,
    "p_value": lambda to: to.paired and to.paired.p_value,
    "p_corrected": lambda to: to.paired and to.paired.p_corrected,
    "n_needed": lambda to: to.paired and to.paired.n_needed,
    "layer_forwards_ratio": lambda to: to.layer_forwards,
    "verdict": lambda to: to.verdict,
}
ORIGIN_COLUMNS: dict[str, Callable[[Summary], object]] = {
    "same_as": lambda run: run.same_as and f"{run.same_as.experiment}/{run.same_as.config}",
    "git_commit": lambda run: run.git and run.git.commit,
    "git_dirty": lambda run: run.git and int(run.git.dirty),
    "fingerprint": lambda run: run.fingerprint,
}
# Only if others published a figure of one of the runs: those of all sources, in percent.
PUBLISHED_COLUMN = "published_accuracy"
# Of seconds in turn (docs/speed.md), over the baseline's, with its interval.
RATIO_ENDS = ("_ratio", "_ratio_low", "_ratio_high")
# Only if the runs of all experiments are known: the standing by layer-forwards (standings.py).
CONTROL_COLUMNS = ("control", "difference_to_control", "p_corrected_to_control", "standing")


def csv_table(groups: Sequence[Group], reports: Mapping[RunKey, RunReport] | None = None) -> str:
    """Return a line per run: shares in 0..1, seconds, GiB; what was not measured is empty.

    reports: if given, a line also compares the run with the controls (`CONTROL_COLUMNS`).
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    shown = {
        key_of(run): figures_text(accuracies(figures_of(run)))
        for group in groups
        for run in group.summaries
    }
    has_published = any(shown.values())
    names = [*RUN_COLUMNS, *COMPARISON_COLUMNS, *ORIGIN_COLUMNS]
    names += [PUBLISHED_COLUMN] if has_published else []
    timed = _timed_axes((reports or {}).values())
    if reports is not None:
        names += [*CONTROL_COLUMNS, *(f"{key}{end}" for key in timed for end in RATIO_ENDS)]
    writer.writerow(names)
    for group in groups:
        for run, comparison in group.compared:
            cells = [value(run) for value in RUN_COLUMNS.values()]
            cells += [comparison and value(comparison) for value in COMPARISON_COLUMNS.values()]
            cells += [value(run) for value in ORIGIN_COLUMNS.values()]
            cells += [shown[key_of(run)]] if has_published else []
            if reports is not None:
                cells += _beside_controls(reports[key_of(run)])
                cells += _ratios(reports[key_of(run)], timed)
            writer.writerow(cells)
    return stream.getvalue()


def _timed_axes(reports: Iterable[RunReport]) -> list[str]:
    """Return the axes of seconds in turn, over the baseline's."""
    keys = {key for report in reports for key in report.costs if key not in OF_PASSES}
    return sorted(keys, key=lambda key: (len(key), key))


def _ratios(report: RunReport, timed: Sequence[str]) -> list[object]:
    costs = [report.costs.get(key) for key in timed]
    return [
        value
        for cost in costs
        for value in ((cost.value, cost.low, cost.high) if cost else [None] * 3)
    ]


def _beside_controls(report: RunReport) -> list[object]:
    if report.summary.passes is None:
        return [None] * len(CONTROL_COLUMNS)
    to_control = report.finding.to_control if report.finding else None
    paired = to_control.paired if to_control else None
    control = to_control.baseline if to_control else None
    return [
        control and f"{control.experiment}/{control.config}",
        paired and paired.difference,
        paired and paired.deciding_p,
        report.standing.value,
    ]
