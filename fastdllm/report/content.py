"""What the report says, as plain records: the page, the images and the tables only show them.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdllm.report.comparisons import (
    Key,
    baseline_of,
    comparisons_of,
    key_of,
    of_one_task,
    run_name,
)
from fastdllm.report.flips import Flips, flipped_items, read_flips
from fastdllm.report.groups import Group
from fastdllm.report.pareto import OF_THE_MACHINE, PLOTTED, Curve, control_curve
from fastdllm.report.sensitivity_map import Sensitivity
from fastdllm.report.standings import Found, Place, Standing, places_of
from fastdllm.results.summary import Summary
from fastdllm.statistics.comparison import Comparison
from fastdllm.statistics.costs import speed_conditions
from fastdllm.statistics.disagreements import disagreements

# Flipped items on the page: of one pair, and of all pairs together, so that it stays small.
MOST_FLIPS, ALL_FLIPS = 24, 1_200
COST = "layer_forwards"


@dataclass(frozen=True, slots=True)
class Row:
    """One run of a task: with its comparison, its place in the plot, and what is the same run.

    shown_with: the name of the run that stands for it in plots, where that is another one.
    place: what it is worth beside the controls.
    """

    summary: Summary
    comparison: Comparison | None
    place: Place
    conditions: int
    shown_with: str | None
    same: tuple[str, ...]

    @property
    def standings(self) -> dict[str, Standing]:
        return self.place.standings

    @property
    def found(self) -> Found | None:
        return self.place.found


@dataclass(frozen=True, slots=True)
class TaskReport:
    """Everything about one task; `curves` by cost and number of the speed conditions."""

    task: str
    limit: int | None
    baseline: Summary
    rows: tuple[Row, ...]
    conditions: tuple[str, ...]
    curves: dict[tuple[str, int], Curve]
    flips: tuple[tuple[str, Flips], ...]

    @property
    def group(self) -> Group:
        """The runs of all experiments as one group."""
        return Group("", self.task, self.limit, tuple(row.summary for row in self.rows))

    @property
    def distinct(self) -> list[Row]:
        """One row per computation."""
        return [row for row in self.rows if row.shown_with is None]

    @property
    def slug(self) -> str:
        """The name in files and anchors."""
        return self.task if self.limit is None else f"{self.task}_first_{self.limit}"


@dataclass(frozen=True, slots=True)
class Report:
    """The whole report. missing: runs of the project that have no published result."""

    tasks: tuple[TaskReport, ...]
    experiments: tuple[str, ...]
    summaries: tuple[Summary, ...]
    alarms: tuple[str, ...]
    missing: int
    titles: dict[str, str]
    sensitivity: Sensitivity | None

    @property
    def places(self) -> dict[Key, Place]:
        """What every shown run is worth beside the controls."""
        return {key_of(row.summary): row.place for task in self.tasks for row in task.rows}

    @property
    def missing_answers(self) -> tuple[int, int]:
        """Pairs whose flipped items cannot be read here, and pairs with flipped items."""
        flips = [found for task in self.tasks for _, found in task.flips]
        return sum(found.why_not is not None for found in flips), len(flips)


def build_report(
    summaries: Sequence[Summary],
    *,
    experiments: Sequence[str] | None = None,
    titles: dict[str, str] | None = None,
    missing: int = 0,
    sensitivity: Sensitivity | None = None,
    results: Path | str = "results",
) -> Report:
    """Put together what the report says.

    Args:
        summaries: all published runs, in the order of the project.
        experiments: those to show; the baseline and the controls are used all the same. None: all.
        titles: question of each experiment, by its name.
        results: folder with the samples, for the items that flipped.
    """
    comparisons = comparisons_of(summaries)
    names = list(dict.fromkeys(summary.experiment for summary in summaries))
    chosen = names if experiments is None else [name for name in names if name in experiments]
    most = _flips_per_pair(summaries)
    tasks = [
        _task_report(task, limit, runs, comparisons, chosen, most=most, results=results)
        for (task, limit), runs in of_one_task(summaries).items()
        if any(run.experiment in chosen for run in runs)
    ]
    records = [summary.model_dump(mode="json") for summary in summaries]
    return Report(
        tasks=tuple(tasks),
        experiments=tuple(chosen),
        summaries=tuple(run for run in summaries if run.experiment in chosen),
        alarms=tuple(alarm.removeprefix("ALARM: ") for alarm in disagreements(records)),
        missing=missing,
        titles=titles or {},
        sensitivity=sensitivity,
    )


def _task_report(
    task: str,
    limit: int | None,
    runs: Sequence[Summary],
    comparisons: dict[Key, Comparison],
    chosen: Sequence[str],
    *,
    most: int,
    results: Path | str,
) -> TaskReport:
    baseline = baseline_of(runs)
    by_conditions = _by_conditions(runs)
    curves: dict[tuple[str, int], Curve] = {}
    for cost in PLOTTED:
        if cost in OF_THE_MACHINE:
            for number, own in enumerate(by_conditions.values()):
                curves[cost, number] = control_curve(own, cost)
        else:
            whole = control_curve(runs, cost)
            curves |= {(cost, number): whole for number in range(len(by_conditions))}
    numbers = {conditions: number for number, conditions in enumerate(by_conditions)}
    shown = [run for run in runs if run.experiment in chosen or run is baseline]
    leaders = _leaders(shown)
    members: dict[int, list[str]] = {}
    for run, leader in zip(shown, leaders, strict=True):
        if leader is not run:
            members.setdefault(id(leader), []).append(_short_name(run, leader))
    places = places_of(runs)
    rows = []
    for run, leader in zip(shown, leaders, strict=True):
        number = numbers[speed_conditions(run)]
        rows.append(
            Row(
                summary=run,
                comparison=comparisons.get(key_of(run)),
                place=places[key_of(run)],
                conditions=number,
                shown_with=None if leader is run else _short_name(leader, run),
                same=tuple(members.get(id(run), ())),
            )
        )
    flips = [
        (run_name(row.summary), found)
        for row in rows
        if row.shown_with is None and row.summary is not baseline and row.summary.passes
        if (found := read_flips(baseline, row.summary, most, results=results)).gained + found.lost
    ]
    return TaskReport(
        task=task,
        limit=limit,
        baseline=baseline,
        rows=tuple(rows),
        conditions=tuple(", ".join(conditions) for conditions in by_conditions),
        curves=curves,
        flips=tuple(flips),
    )


def _by_conditions(runs: Sequence[Summary]) -> dict[tuple[str, ...], list[Summary]]:
    """Runs by hardware, dtype and batch size; what most runs share comes first."""
    found: dict[tuple[str, ...], list[Summary]] = {}
    for run in runs:
        found.setdefault(speed_conditions(run), []).append(run)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def _leaders(runs: Sequence[Summary]) -> list[Summary]:
    """For each run the one that stands for its computation: its origin, else the first shown."""
    by_origin: dict[Any, Summary] = {}
    for run in runs:
        if run.same_as is None:
            by_origin[run.experiment, run.config] = run
    leaders = []
    for run in runs:
        key = (run.experiment, run.config)
        if run.same_as is not None:
            key = (run.same_as.experiment, run.same_as.config)
        leaders.append(by_origin.setdefault(key, run))
    return leaders


def _short_name(run: Summary, seen_from: Summary) -> str:
    if run.experiment == seen_from.experiment:
        return run.config
    return run_name(run)


def _flips_per_pair(summaries: Sequence[Summary]) -> int:
    pairs = 0
    for runs in of_one_task(summaries).values():
        baseline = baseline_of(runs)
        decoded = [run for run in runs if run.same_as is None and run.passes]
        pairs += sum(any(flipped_items(baseline, run)) for run in decoded)
    return max(2, min(MOST_FLIPS, ALL_FLIPS // max(1, pairs)))
