"""The rows of data behind the plots: what a chart draws and a tooltip says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from fastdllm.records.summary import Summary
from fastdllm.report.content import RunReport, TaskReport
from fastdllm.report.groups import PASS_KINDS, passes_per_answer, run_name
from fastdllm.report.pareto import Dot, Window, clipped_line, close, dot_of, whole
from fastdllm.report.words import (
    KIND_WORDS,
    accuracy_words,
    difference_words,
    interval_of,
    verdict_words,
)
from fastdllm.traces import palette

# Edges of the bins that are drawn; the histogram in a summary is finer.
CONFIDENCE_EDGES = (0.0, *palette.CONFIDENCE_EDGES, 1.0)
CONFIDENCE_NAMES = ("< 0.5", "0.5-0.7", "0.7-0.9", "0.9-0.95", "0.95-0.99", "0.99-0.999", "> 0.999")
# Most bars of one experiment; the tables have all runs.
MOST_BARS = 40

Rows = list[dict[str, Any]]


def pareto_points(task: TaskReport) -> Rows:
    """Return a row per computation that was decoded, for the Pareto plot."""
    return [
        _point(run, is_baseline=run.summary is task.baseline)
        for run in task.distinct
        if run.summary.passes is not None
    ]


def views(task: TaskReport, cost: str) -> dict[str, dict[str, Any]]:
    """Return the views of a Pareto plot: by name, the limits, the dots hidden, and the curve.

    The views are `all`, and `close` if it hides any dot. cost: the key of its axis.
    """
    return {
        name: asdict(window) | {"curve": _curve(task.curves[cost], cost, window)}
        for name, window in _windows(task, cost).items()
    }


def bars(task: TaskReport, experiment: str) -> dict[str, Rows]:
    """Return the rows of an experiment's bar charts: the baseline, then up to `MOST_BARS` runs."""
    decoded = [run.summary for run in task.distinct if run.summary.passes is not None]
    others = [
        summary
        for summary in decoded
        if summary.experiment == experiment and summary is not task.baseline
    ][:MOST_BARS]
    named = [("baseline", task.baseline), *((summary.config, summary) for summary in others)]
    if not others and experiment != task.baseline.experiment:
        named = []
    return {
        "passes": [
            _part(name, KIND_WORDS[kind], order, value)
            for name, run in named
            for order, (kind, value) in enumerate(passes_per_answer(run).items())
        ],
        "tokens": [
            {"row": name, "value": run.tokens_per_forward}
            for name, run in named
            if run.tokens_per_forward is not None
        ],
        "confidences": [
            _part(name, part, order, share)
            for name, run in named
            for order, (part, share) in enumerate(
                zip(CONFIDENCE_NAMES, confidence_shares(run), strict=False)
            )
        ],
    }


def experiments_with_bars(task: TaskReport) -> dict[str, int]:
    """Return the experiments with a computation of their own, and the number of their bars."""
    names = dict.fromkeys(run.summary.experiment for run in task.runs)
    counts = {name: len({bar["row"] for bar in bars(task, name)["passes"]}) for name in names}
    return {name: count for name, count in counts.items() if count}


def confidence_shares(summary: Summary) -> list[float]:
    """Return the share of the committed tokens in each drawn bin; [] if nothing was recorded."""
    if summary.confidences is None or not sum(summary.confidences.counts):
        return []
    lower, counts = summary.confidences.edges[:-1], summary.confidences.counts
    total = sum(counts)
    return [
        sum(n for edge, n in zip(lower, counts, strict=True) if low <= edge < high) / total
        for low, high in pairwise(CONFIDENCE_EDGES)
    ]


def kind_names() -> tuple[str, ...]:
    """Return the kinds of passes in words, in the order of the bars."""
    return tuple(KIND_WORDS[kind] for kind in PASS_KINDS)


def _windows(task: TaskReport, cost: str) -> dict[str, Window]:
    dots = {id(run.summary): dot_of(run.summary, run.costs.get(cost)) for run in task.distinct}
    drawn = [dot for dot in dots.values() if dot is not None]
    if not drawn:
        return {}
    windows = {"all": whole(drawn)}
    baseline = dots.get(id(task.baseline))
    if baseline is not None:
        near = close(drawn, baseline)
        windows |= {} if near is None else {"close": near}
    return windows


def _curve(thresholds: Mapping[Dot, float], cost: str, window: Window) -> Rows:
    """Return the part of the control curve that a window shows, and the thresholds in it."""
    line = [
        {
            cost: dot.cost,
            "line": dot.accuracy if window.shows(dot.accuracy) else None,
            "accuracy": window.nearest(dot.accuracy),
            "low": window.nearest(dot.low),
            "high": window.nearest(dot.high),
            "floor": window.low,
        }
        for dot in clipped_line(list(thresholds), window)
    ]
    labels = [
        {cost: dot.cost, "at": dot.accuracy, "label": f"{threshold:g}"}
        for dot, threshold in thresholds.items()
        if window.left <= dot.cost <= window.right and window.low <= dot.accuracy <= window.high
    ]
    return _rounded(line + labels)


def _point(run: RunReport, *, is_baseline: bool) -> dict[str, Any]:
    summary = run.summary
    low, high = interval_of(summary)
    name = run_name(summary)
    point: dict[str, Any] = {
        "run": name,
        "experiment": summary.experiment,
        "accuracy": round(100 * summary.accuracy, 3),
        "low": round(100 * low, 3),
        "high": round(100 * high, 3),
        "accuracy_text": accuracy_words(summary),
        "difference": difference_words(run.comparison) or "is the baseline",
        "verdict": verdict_words(run.comparison) or "-",
        "same": ", ".join(run.same) or "-",
        "is_baseline": is_baseline,
        "standing": str(run.standing),
        "description": f"{name}: accuracy {accuracy_words(summary)}",
    }
    for key, cost in run.costs.items():
        ends = {"": cost.value, "_low": cost.low, "_high": cost.high}
        known = {end: value for end, value in ends.items() if value is not None}
        point |= {f"{key}{end}": float(f"{value:.6g}") for end, value in known.items()}
    return point


def _part(row: str, name: str, order: int, value: float) -> dict[str, Any]:
    return {"row": row, "part": name, "part_order": order, "value": round(value, 5)}


def _rounded(rows: Rows) -> Rows:
    return [
        {k: float(f"{v:.7g}") if isinstance(v, float) else v for k, v in row.items()}
        for row in rows
    ]
