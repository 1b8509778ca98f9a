"""The few sentences that stand above a plot: what one should have seen. Imports no torch."""

from __future__ import annotations

from collections import Counter

from fastdllm.report.baseline import CONTROL_EXPERIMENT
from fastdllm.report.content import COST, Row, TaskReport
from fastdllm.report.pareto import Standing, cost_of
from fastdllm.report.words import accuracy_words, cost_words, verdict_words


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
    if not task.curves[COST, 0].points:
        return [*found, "No thresholds were run as controls, so nothing can be called worth it."]
    ideas = [
        row
        for row in task.distinct
        if row.standings[COST] is not Standing.CONTROL
        and row.summary.experiment != CONTROL_EXPERIMENT
    ]
    if not ideas:
        return [*found, "Only controls were run."]
    found.append(_counts(task, ideas))
    found.append(_cheapest_without_loss(task, ideas))
    return found


def _counts(task: TaskReport, ideas: list[Row]) -> str:
    counts = Counter(row.standings[COST] for row in ideas)
    parts = [
        f"{counts[standing]} {words}"
        for standing, words in (
            (Standing.ABOVE, "more accurate than the threshold alone at equal cost"),
            (Standing.WITHIN_NOISE, "above it by no more than noise"),
            (Standing.BELOW, "not worth it"),
            (Standing.UNKNOWN, "cheaper than every control, so without one to compare with"),
        )
        if counts[standing]
    ]
    noun = "computation" if len(ideas) == 1 else "computations"
    text = f"Of {len(ideas)} {noun} that are no controls: {_listed(parts)}."
    beaten = sum(_is_worth_it(row) and _is_beaten(task, row) for row in ideas)
    if beaten:
        verb = "is" if beaten == 1 else "are"
        text += (
            f" Of those above the threshold {beaten} {verb} beaten in both by another control, "
            "such as a larger sub-block."
        )
    return text


def _cheapest_without_loss(task: TaskReport, ideas: list[Row]) -> str:
    """The cheapest idea that no control beats, of those whose paired interval reaches 0."""
    base = cost_of(task.baseline, COST)
    good = [
        (cost, row)
        for row in ideas
        if _is_worth_it(row) and not _is_beaten(task, row)
        if row.comparison is not None and row.comparison.paired is not None
        if row.comparison.paired.interval[1] >= 0
        if (cost := cost_of(row.summary, COST)) is not None and base and cost < base
    ]
    if not good:
        return "None of them is cheaper than the baseline without a loss and beaten by no control."
    cost, row = min(good, key=lambda pair: pair[0])
    share = 100 * (1 - cost / base) if base else 0.0
    run = row.summary
    return (
        f"Cheapest without a loss that was seen: {run.experiment} / {run.config}, "
        f"{accuracy_words(run)} at {cost_words(cost)} layer-forwards, {share:.0f} % fewer than "
        f"the baseline ({verdict_words(row.comparison)})."
    )


def _is_worth_it(row: Row) -> bool:
    return row.standings[COST] in (Standing.ABOVE, Standing.WITHIN_NOISE)


def _is_beaten(task: TaskReport, row: Row) -> bool:
    """Whether a control of any kind is cheaper and no less accurate."""
    cost = cost_of(row.summary, COST)
    return cost is not None and any(
        own is not None and own < cost and control.accuracy >= row.summary.accuracy
        for control in task.controls
        for own in [cost_of(control, COST)]
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
