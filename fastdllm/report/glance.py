"""The few sentences that stand above a plot: what one should have seen. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fastdllm.report.comparisons import run_name
from fastdllm.report.content import COST, Row, TaskReport
from fastdllm.report.pareto import cost_of
from fastdllm.report.standings import Standing, is_no_loss
from fastdllm.report.words import accuracy_words, cost_words, difference_words, speed_words


def sentences(task: TaskReport) -> list[str]:
    """What the figures of a task say, from the baseline to the best configuration."""
    if not task.group.is_generation:
        return _of_likelihoods(task)
    cost = cost_of(task.baseline, COST)
    found = [
        f"Baseline: {run_name(task.baseline)}, right on {accuracy_words(task.baseline)} of "
        f"{task.baseline.primary.n} items at {cost_words(cost)} layer-forwards per answer."
    ]
    every = _computations(task.distinct)
    ideas = _computations([r for r in task.distinct if r.standings[COST] is not Standing.CONTROL])
    if ideas:
        found.append(_counts(ideas))
    elif len(task.rows) > 1:
        found.append("All others are controls.")
    return [*found, _faster(task, every), _fewest_without_loss(every)] if every else found


def _computations(rows: Sequence[Row]) -> list[Row]:
    """One row for each computation that is compared with plain decoding."""
    found: dict[int, Row] = {}
    for row in rows:
        if row.found is not None:
            found.setdefault(id(row.found), row)
    return list(found.values())


def _counts(ideas: Sequence[Row]) -> str:
    """Counted as the READMEs of the experiments do."""
    counts = Counter(row.standings[COST] for row in ideas)
    if counts[Standing.NO_CONTROL] == len(ideas):
        return "No controls were run that these could be held against, so none is worth it yet."
    parts = [
        f"{counts[standing]} {words}"
        for standing, words in (
            (Standing.ABOVE, "beat the controls at equal layer-forwards"),
            (Standing.WITHIN_NOISE, "lie above them within noise"),
            (Standing.UNKNOWN, "are cheaper than every control and less accurate"),
            (Standing.BELOW, "are not worth it"),
            (Standing.NO_CONTROL, "have no control to compare with"),
        )
        if counts[standing] or standing is Standing.ABOVE
    ]
    noun = "computation" if len(ideas) == 1 else "computations"
    verb = "is no control" if len(ideas) == 1 else "are no controls"
    return f"Of {len(ideas)} {noun} that {verb}: {_listed(parts)}."


def _faster(task: TaskReport, every: Sequence[Row]) -> str:
    """Whether anything was measurably faster, controls included."""
    timed = [row for row in every if row.found and row.found.against_plain.speed]
    batch = f"batch size {task.baseline.eval_params['batch_size']}"
    if not timed:
        return "No speed was measured under the conditions of plain decoding."
    faster = [row for row in timed if row.found and row.found.is_faster]
    if not faster:
        return (
            "No configuration decoded measurably faster than plain decoding on this hardware "
            f"({batch})."
        )
    best = max(faster, key=_speed)
    assert best.found is not None
    words = speed_words(best.found.against_plain)
    return (
        f"{len(faster)} of {len(timed)} computations, controls included, decoded measurably faster "
        f"than plain decoding on this hardware ({batch}), {run_name(best.summary)} most: {words}."
    )


def _fewest_without_loss(every: Sequence[Row]) -> str:
    """The computation of fewest layer-forwards that lost nothing one can see, controls included."""
    good = [row for row in every if row.found and row.found.saved > 0 and is_no_loss(row.found)]
    if not good:
        return "No configuration of fewer layer-forwards is without a loss of accuracy."
    best = min(good, key=lambda row: row.found.cost if row.found else 0.0)
    found = best.found
    assert found is not None
    kind = ", a control" if best.standings[COST] is Standing.CONTROL else ""
    return (
        f"Fewest layer-forwards without a loss that was seen: {run_name(best.summary)}{kind}, "
        f"{100 * found.saved:.0f} % fewer than plain decoding, "
        f"{difference_words(found.against_plain)}; decoded with {speed_words(found.against_plain)}."
    )


def _speed(row: Row) -> float:
    speed = row.found.against_plain.speed if row.found else None
    return speed.value if speed else 0.0


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
