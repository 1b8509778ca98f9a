"""The rows of the page's tables: text to read, and a number to sort by. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from fastdllm.report.content import COST, Row, TaskReport
from fastdllm.report.groups import is_dirty
from fastdllm.report.pareto import OF_THE_MACHINE, PLOTTED, cost_of
from fastdllm.report.standings import Standing
from fastdllm.report.words import (
    cost_words,
    difference_words,
    interval_of,
    p_words,
    verdict_words,
)
from fastdllm.statistics.comparison import Comparison, Ratio
from fastdllm.statistics.costs import COSTS
from fastdllm.statistics.verdicts import SAME, SIGNIFICANT, signed

# Differences are drawn up to this many points; a longer one ends in an arrow.
MOST_POINTS = 12.0
# As in the plot.
MARKS = {
    Standing.ABOVE: "\u25cf",
    Standing.WITHIN_NOISE: "\u25cb",
    Standing.BELOW: "\u2715",
    Standing.CONTROL: "\u25c6",
    Standing.UNKNOWN: "\u25b3",
    Standing.UNDOMINATED: "\u25cb",
    Standing.NO_CONTROL: "\u25a1",
}
STANDING_ORDER = {standing: order for order, standing in enumerate(Standing)}


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: text, a second line in small type, the sort key, a class for its colour."""

    text: str
    more: str = ""
    key: float | str = ""
    look: str = ""
    forest: Forest | None = None


@dataclass(frozen=True, slots=True)
class Forest:
    """A difference drawn as a dot with its interval: places in % of the width."""

    left: float
    right: float
    middle: float
    cut_left: bool
    cut_right: bool


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a table."""

    experiment: str
    config: str
    marks: tuple[str, ...]
    same: tuple[str, ...]
    is_twin: bool
    is_baseline: bool
    cells: tuple[Cell, ...]


def headings(task: TaskReport) -> list[tuple[str, str]]:
    """Heading and explanation of each column behind the run's name."""
    found = [
        ("accuracy, %", "with its 95 % interval"),
        ("to baseline, points", "difference paired by item, with its 95 % interval"),
        ("p (Holm)", "exact McNemar test, corrected over the experiment"),
        ("verdict", "what the paired difference allows to say"),
    ]
    if not task.group.is_generation:
        return found
    return [
        (
            "at equal layer-forwards",
            "against the most accurate control that costs no more; below, the points to it",
        ),
        *found,
        *((COSTS[cost][0], "") for cost in PLOTTED),
        ("tokens per forward", "generated tokens per forward evaluation"),
        ("cut, %", "answers cut at their length limit"),
    ]


def lines(task: TaskReport) -> list[Line]:
    """The table of a task; repeated computations follow where they stand in the project."""
    return [_line(task, row) for row in task.rows]


def _line(task: TaskReport, row: Row) -> Line:
    run, comparison = row.summary, row.comparison
    cells = [_accuracy(row), _difference(comparison), _p(comparison), _verdict(row)]
    if task.group.is_generation:
        cells = [_standing(row), *cells, *(_cost(row, cost) for cost in PLOTTED)]
        forwards, cut = run.tokens_per_forward, run.truncation_rate
        cells += [
            Cell("" if forwards is None else f"{forwards:.2f}", key=_number(forwards)),
            Cell("" if cut is None else f"{100 * cut:.1f}", key=_number(cut)),
        ]
    return Line(
        experiment=run.experiment,
        config=run.config,
        marks=("uncommitted changes",) if is_dirty(run) else (),
        same=row.same if row.shown_with is None else (row.shown_with,),
        is_twin=row.shown_with is not None,
        is_baseline=run is task.baseline,
        cells=tuple(cells),
    )


def _accuracy(row: Row) -> Cell:
    low, high = interval_of(row.summary)
    interval = f"{100 * low:.1f} to {100 * high:.1f}" if high > low else ""
    return Cell(f"{100 * row.summary.accuracy:.1f}", interval, row.summary.accuracy)


def _difference(comparison: Comparison | None) -> Cell:
    if comparison is None:
        return Cell("baseline", key=0.0, look="soft")
    paired = comparison.paired
    if paired is None:
        why = difference_words(comparison)
        return Cell("same", key=0.0, look="soft") if why == SAME else Cell("-", why, look="soft")
    low, high = paired.interval
    look = "loss" if high < 0 else "gain" if low > 0 else ""
    text, more = signed(paired.difference), f"{signed(low)} to {signed(high)}"
    return Cell(text, more, paired.difference, look, _forest(paired.difference, low, high))


def _forest(difference: float, low: float, high: float) -> Forest:
    def place(share: float) -> float:
        points = max(-MOST_POINTS, min(MOST_POINTS, 100 * share))
        return round(50 + 50 * points / MOST_POINTS, 1)

    cut = 100 * difference < -MOST_POINTS, 100 * difference > MOST_POINTS
    return Forest(place(low), place(high), place(difference), *cut)


def _p(comparison: Comparison | None) -> Cell:
    if comparison is None or comparison.paired is None:
        return Cell("")
    p = comparison.paired.deciding_p
    return Cell(p_words(p), key=p)


def _verdict(row: Row) -> Cell:
    text = verdict_words(row.comparison) or "the others are compared with this run"
    paired = row.comparison.paired if row.comparison else None
    needed = paired.n_needed if paired and paired.p_value >= SIGNIFICANT else None
    more = f"{needed:,} items would show it" if needed else ""
    return Cell(text, more, text, "words")


def _standing(row: Row) -> Cell:
    found = row.standings[COST]
    look = "words gain" if found is Standing.ABOVE else "words soft"
    more = "" if found is Standing.CONTROL else _control(row)
    return Cell(f"{MARKS[found]} {found}", more, STANDING_ORDER[found], look)


def _control(row: Row) -> str:
    """The difference to the control that a run was held against."""
    control = row.found.control if row.found else None
    if control is None or control.paired is None:
        return ""
    return f"{signed(control.paired.difference)} to {control.baseline.config}"


def _cost(row: Row, cost: str) -> Cell:
    value = cost_of(row.summary, cost)
    text = cost_words(value)
    if value is not None and cost in OF_THE_MACHINE and row.conditions:
        text += "*"
    more = ""
    if row.comparison is not None and cost == COST and row.comparison.layer_forwards:
        more = f"{100 * row.comparison.layer_forwards:.0f} %"
    if row.comparison is not None and cost == "tokens_per_s" and row.comparison.speed:
        more = _ratio(row.comparison.speed)
    return Cell(text, more, _number(value))


def _ratio(ratio: Ratio) -> str:
    text = f"{100 * ratio.value:.0f} %"
    if ratio.interval is None:
        return text
    return f"{text} ({100 * ratio.interval[0]:.0f} to {100 * ratio.interval[1]:.0f})"


def _number(value: float | None) -> float | str:
    return "" if value is None else float(f"{value:.6g}")
