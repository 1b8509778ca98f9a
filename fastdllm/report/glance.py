"""The few sentences that stand above a plot: what one should have seen. Imports no torch."""

from __future__ import annotations

from collections import Counter

from fastdllm.report.content import COST, Row, TaskReport
from fastdllm.report.pareto import Standing, cost_of
from fastdllm.report.words import accuracy_words, cost_words, interval_of, verdict_words


def sentences(task: TaskReport) -> list[str]:
    """What the figures of a task say, from the baseline to the best configuration."""
    if not task.group.is_generation:
        return _of_likelihoods(task)
    name = f"{task.baseline.experiment} / {task.baseline.config}"
    cost = cost_of(task.baseline, COST)
    found = [
        f"Baseline: {name}, right on {accuracy_words(task.baseline)} of "
        f"{task.baseline.primary.n} items at {cost_words(cost)} layer-forwards per answer."
    ]
    rows = [row for row in task.distinct if row.standings[COST] is not Standing.CONTROL]
    if not task.curves[COST, 0].points:
        return [*found, "No thresholds were run as controls, so nothing can be called worth it."]
    if not rows:
        return found
    counts = Counter(row.standings[COST] for row in rows)
    parts = [
        f"{counts[standing]} {words}"
        for standing, words in (
            (Standing.ABOVE, "are more accurate than the threshold alone at equal cost"),
            (Standing.WITHIN_NOISE, "lie above it by no more than noise"),
            (Standing.BELOW, "are not worth it"),
            (Standing.UNKNOWN, "are cheaper than every control"),
        )
        if counts[standing]
    ]
    noun = "computation" if len(rows) == 1 else "computations"
    found.append(f"Of {len(rows)} other {noun}, {_listed(parts)}.")
    best = _cheapest_without_loss(task, rows)
    if best is not None:
        found.append(best)
    return found


def _cheapest_without_loss(task: TaskReport, rows: list[Row]) -> str | None:
    """The cheapest run above the controls whose interval reaches the baseline's accuracy."""
    base = cost_of(task.baseline, COST)
    good = [
        (cost, row)
        for row in rows
        if row.standings[COST] in (Standing.ABOVE, Standing.WITHIN_NOISE)
        if (cost := cost_of(row.summary, COST)) is not None
        if interval_of(row.summary)[1] >= task.baseline.accuracy
        if base and cost < base
    ]
    if not good:
        return "None is cheaper than the baseline without a loss of accuracy."
    cost, row = min(good, key=lambda pair: pair[0])
    share = 100 * (1 - cost / base) if base else 0.0
    run = row.summary
    return (
        f"Cheapest without a loss that was seen: {run.experiment} / {run.config}, "
        f"{accuracy_words(run)} at {cost_words(cost)} layer-forwards, {share:.0f} % fewer than "
        f"the baseline ({verdict_words(row.comparison)})."
    )


def _of_likelihoods(task: TaskReport) -> list[str]:
    n, n_distinct = len(task.rows), len(task.distinct)
    runs = "1 configuration" if n == 1 else f"{n} configurations"
    made = "1 computation" if n_distinct == 1 else f"{n_distinct} computations"
    return [
        "Answers are chosen by likelihood: nothing is decoded, so decoding settings do not touch "
        f"this task. {runs} are {made}; equal figures are expected and say nothing about reuse."
        if n > 1
        else "Answers are chosen by likelihood: nothing is decoded."
    ]


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
