"""The tables of the page: runs, whose cells have a text and a sort key, and their origins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fastdllm.records.published import METRIC_UNKNOWN
from fastdllm.records.summary import Summary
from fastdllm.report.content import RunReport, TaskReport
from fastdllm.report.groups import is_dirty
from fastdllm.report.published_figures import accuracies, figures_of, figures_text
from fastdllm.report.standings import Standing
from fastdllm.report.words import cost_words, difference_words, interval_of, verdict_words
from fastdllm.statistics.busy import TIMED_APART, was_busy
from fastdllm.statistics.comparison import Comparison
from fastdllm.statistics.costs import speed_conditions, tokens_per_s
from fastdllm.statistics.ties import is_tied
from fastdllm.statistics.truncation import is_marked
from fastdllm.statistics.verdicts import (
    SAME,
    detection_words,
    excluded,
    p_words,
    points,
    signed,
)

# Differences are drawn up to this many points; a larger loss ends in an arrow.
MOST_POINTS = 12.0
PUBLISHED = "published, %"
PUBLISHED_MEANS = "by others, with the same model, task and settings; not measured here"
# Characters that look like the marks of the plot.
MARKS = {
    Standing.ABOVE: "\u25cf",
    Standing.WITHIN_NOISE: "\u25cb",
    Standing.UNKNOWN: "\u25b3",
    Standing.NO_GAIN: "\u2013",
    Standing.DOMINATED: "\u2715",
    Standing.CONTROL: "\u25c6",
    Standing.NO_CONTROL: "\u25a1",
}
STANDING_ORDER = {standing: order for order, standing in enumerate(Standing)}


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell; `more`: a second line in small type, `look`: CSS classes."""

    text: str
    more: str = ""
    key: float | str = ""
    look: str = ""
    forest: Forest | None = None


@dataclass(frozen=True, slots=True)
class Forest:
    """A difference drawn as a dot with its interval: places in % of the width.

    is_beyond: it lies beyond the left end, where a larger loss is not drawn.
    """

    left: float
    right: float
    middle: float
    is_beyond: bool


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row of a table; `same`: names of the runs that are the same computation."""

    experiment: str
    config: str
    marks: tuple[str, ...]
    same: tuple[str, ...]
    is_twin: bool
    is_baseline: bool
    cells: tuple[Cell, ...]


def headings(task: TaskReport) -> list[tuple[str, str]]:
    """Return heading and explanation of each column after the run's name."""
    columns = [
        ("accuracy, %", "with its 95 % interval"),
        *([(PUBLISHED, PUBLISHED_MEANS)] if _has_published(task) else []),
        ("to baseline, points", "difference paired by item, with its 95 % interval"),
        ("p, corrected", "for all comparisons of the experiment, by their dependence (max-T)"),
        ("what that says", "what can be said from the paired difference"),
    ]
    if not task.is_generation:
        return columns
    return [
        (
            "at equal layer-forwards",
            "against the most accurate control that costs no more, else the cheapest one; below, "
            "the points to it",
        ),
        *columns,
        *((axis.title, "") for axis in task.axes),
        ("tokens per second", TIMED_APART),
        ("tokens per forward", "generated tokens per forward evaluation"),
        ("truncated, %", "answers truncated at their length limit"),
    ]


def table_rows(task: TaskReport) -> list[TableRow]:
    """Return the table of a task, in the order of the project."""
    has_published = _has_published(task)
    return [_table_row(task, run, has_published=has_published) for run in task.runs]


def _table_row(task: TaskReport, run: RunReport, *, has_published: bool) -> TableRow:
    summary, comparison = run.summary, run.comparison
    cells = [_accuracy(summary), *([_published(summary)] if has_published else [])]
    cells += [_difference(comparison), _p(comparison), _verdict(comparison)]
    if task.is_generation:
        cells = [_standing(run), *cells, *(_cost(run, axis.key) for axis in task.axes), _speed(run)]
        forwards, truncated = summary.tokens_per_forward, summary.truncation_rate
        cells += [
            Cell("" if forwards is None else f"{forwards:.2f}", key=_number(forwards)),
            Cell("" if truncated is None else f"{100 * truncated:.1f}", key=_number(truncated)),
        ]
    return TableRow(
        experiment=summary.experiment,
        config=summary.config,
        marks=tuple(_marks(summary)),
        same=run.same if run.shown_with is None else (run.shown_with,),
        is_twin=run.shown_with is not None,
        is_baseline=summary is task.baseline,
        cells=tuple(cells),
    )


def _marks(summary: Summary) -> Iterator[str]:
    if is_dirty(summary):
        yield "uncommitted changes"
    if summary.git_unknown is not None:
        yield "commit unknown"
    if is_marked(summary.truncation_rate):
        yield "truncated answers"
    if is_tied(summary):
        yield "tied options"
    if was_busy(summary):
        yield "busy machine"


def _accuracy(summary: Summary) -> Cell:
    low, high = interval_of(summary)
    interval = f"{100 * low:.1f} to {100 * high:.1f}" if high > low else ""
    return Cell(f"{100 * summary.accuracy:.1f}", interval, summary.accuracy)


def _has_published(task: TaskReport) -> bool:
    return any(accuracies(figures_of(run.summary)) for run in task.runs)


def _published(summary: Summary) -> Cell:
    figures = [one for one in figures_of(summary) if one.figure.accuracy is not None]
    values = accuracies(figures)
    more = "; ".join(f"{one.source} ({one.figure.metric or METRIC_UNKNOWN})" for one in figures)
    return Cell(figures_text(values), more, values[0] if values else "", "words soft")


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

    is_beyond = 100 * difference < -MOST_POINTS
    return Forest(place(low), place(high), place(difference), is_beyond)


def _p(comparison: Comparison | None) -> Cell:
    if comparison is None or comparison.paired is None:
        return Cell("")
    p = comparison.paired.deciding_p
    return Cell(p_words(p), key=p)


def _verdict(comparison: Comparison | None) -> Cell:
    text = verdict_words(comparison) or "the others are compared with this run"
    paired = comparison.paired if comparison else None
    needed = paired.n_needed if paired and not paired.is_shown else None
    more = detection_words(needed) if needed else ""
    return Cell(text, more, text, "words")


def _standing(run: RunReport) -> Cell:
    standing = run.standing
    look = "words gain" if standing is Standing.ABOVE else "words soft"
    to_control = run.finding.to_control if run.finding else None
    more = ""
    if standing is not Standing.CONTROL and to_control is not None and to_control.paired:
        paired, control = to_control.paired, to_control.baseline.config
        more = f"{signed(paired.difference)} to {control}"
        if run.finding is not None and run.finding.is_cheapest:
            more += f", which costs {100 * run.finding.control_costs_more:.0f} % more"
        if standing is Standing.NO_GAIN:
            more += f"; a gain of more than {points(excluded(paired.excluded_gain))} is excluded"
    return Cell(f"{MARKS[standing]} {standing}", more, STANDING_ORDER[standing], look)


def _cost(run: RunReport, key: str) -> Cell:
    cost, comparison = run.costs.get(key), run.comparison
    if cost is None:
        return Cell("")
    if cost.low is not None and cost.high is not None:
        return Cell(f"{cost.value:.3f}", f"{cost.low:.3f} to {cost.high:.3f}", cost.value)
    more = ""
    if comparison is not None and key == "layer_forwards" and comparison.layer_forwards:
        more = f"{100 * comparison.layer_forwards:.0f} %"
    return Cell(cost_words(cost.value), more, _number(cost.value))


def _speed(run: RunReport) -> Cell:
    value = tokens_per_s(run.summary)
    return Cell(cost_words(value) + "*" * bool(value and run.conditions), key=_number(value))


def _number(value: float | None) -> float | str:
    return "" if value is None else float(f"{value:.6g}")


@dataclass(frozen=True, slots=True)
class Origin:
    """What a number of runs share; a run made from another one counts as made the same way."""

    runs: int
    commit: str
    dirty: bool | None
    no_commit: str
    model: str
    model_digest: str
    conditions: str
    versions: str
    first: str
    last: str


def origins(summaries: Sequence[Summary]) -> list[Origin]:
    """Return the distinct ways, those of the most runs first."""
    by_origin: dict[tuple[object, ...], list[Summary]] = {}
    for run in summaries:
        key = (
            (run.git.commit, run.git.dirty) if run.git else run.git_unknown,
            _model(run),
            speed_conditions(run),
            tuple(sorted(run.environment.items())),
        )
        by_origin.setdefault(key, []).append(run)
    return [_origin(runs) for runs in sorted(by_origin.values(), key=len, reverse=True)]


def _origin(runs: Sequence[Summary]) -> Origin:
    run = runs[0]
    dates = sorted(run.timestamp for run in runs)
    name, digest = _model(run)
    return Origin(
        runs=len(runs),
        commit=run.git.commit if run.git else "",
        dirty=run.git.dirty if run.git else None,
        no_commit=run.git_unknown or "not in git",
        model=name,
        model_digest=digest,
        conditions=", ".join(speed_conditions(run)),
        versions=", ".join(f"{name} {version}" for name, version in run.environment.items()),
        first=dates[0],
        last=dates[-1],
    )


def _model(run: Summary) -> tuple[str, str]:
    path = run.model_args.get("model_path", run.decides.get("model", ""))
    version = run.eval_params.get("model_commit", run.decides.get("model_digest", ""))
    return str(path), str(version)
