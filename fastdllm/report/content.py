"""The content of the report as plain records, which page, images and tables only display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fastdllm.records.claims_record import ClaimsRecord
from fastdllm.records.speed_record import SpeedRecord
from fastdllm.records.summary import Summary
from fastdllm.report.axes import Axis, Measured, axes_of, costs_of
from fastdllm.report.controls import controls_of
from fastdllm.report.flips import Flips, flipped_items, read_flips
from fastdllm.report.groups import Group, RunKey, by_task, grouped, key_of, run_name
from fastdllm.report.pareto import Dot, control_curve
from fastdllm.report.sensitivity_map import SensitivityMap
from fastdllm.report.standings import ExperimentFinding, Standing, findings_by_run, standing_of
from fastdllm.statistics.comparison import Comparison, why_other_items
from fastdllm.statistics.costs import speed_conditions
from fastdllm.statistics.disagreements import disagreements

# Most flipped items on the page, of one pair and of all pairs, so that the page stays small.
MOST_FLIPS, ALL_FLIPS = 24, 1_200


@dataclass(frozen=True, slots=True)
class RunReport:
    """One run of a task.

    comparison: with the baseline; None for the baseline itself. finding: None for plain decoding.
    costs: by the
    key of their axis. conditions: the number of its speed conditions. shown_with: the name of the
    run that represents it in plots; None if it is drawn itself. same: the names of the runs that it
    represents.
    """

    summary: Summary
    comparison: Comparison | None
    finding: ExperimentFinding | None
    standing: Standing
    costs: dict[str, Measured]
    conditions: int
    shown_with: str | None
    same: tuple[str, ...]


@dataclass(frozen=True)  # without slots, for what is gathered once
class TaskReport:
    """Everything about one task; `curves` by the key of their axis.

    flips: of each pair with the baseline, by the name of the run. speeds: the measured ones.
    """

    task: str
    limit: int | None
    baseline: Summary
    runs: tuple[RunReport, ...]
    conditions: tuple[str, ...]
    axes: tuple[Axis, ...]
    curves: dict[str, dict[Dot, float]]
    flips: tuple[tuple[str, Flips], ...]
    speeds: tuple[SpeedRecord, ...]

    @property
    def title(self) -> str:
        return self.baseline.task_title

    @cached_property
    def is_generation(self) -> bool:
        """Whether answers were generated; otherwise only likelihoods of options were compared."""
        return any(run.summary.passes is not None for run in self.runs)

    @cached_property
    def distinct(self) -> list[RunReport]:
        """One run per computation."""
        return [run for run in self.runs if run.shown_with is None]

    @cached_property
    def findings(self) -> list[ExperimentFinding]:
        """The findings of the runs shown, by rising cost."""
        by_id = {id(run.finding): run.finding for run in self.distinct if run.finding}
        return sorted(by_id.values(), key=lambda finding: finding.cost)

    @property
    def slug(self) -> str:
        """The name in files and anchors."""
        return self.task if self.limit is None else f"{self.task}_first_{self.limit}"


@dataclass(frozen=True)  # without slots, for what is gathered once
class Report:
    """The whole report.

    missing: runs of the project that have no published result. claims: registered ones with their
    results. withheld: the tasks of which nothing is shown yet, and why.
    """

    tasks: tuple[TaskReport, ...]
    experiments: tuple[str, ...]
    groups: tuple[Group, ...]
    alarms: tuple[str, ...]
    missing: int
    titles: dict[str, str]
    sensitivity: SensitivityMap | None
    claims: tuple[ClaimsRecord, ...] = ()
    withheld: tuple[str, ...] = ()

    @property
    def summaries(self) -> list[Summary]:
        """The published runs of the experiments shown."""
        return [summary for group in self.groups for summary in group.summaries]

    @cached_property
    def runs(self) -> dict[RunKey, RunReport]:
        """Every run shown."""
        return {key_of(run.summary): run for task in self.tasks for run in task.runs}

    @property
    def missing_answers(self) -> tuple[int, int]:
        """How many pairs have flipped items that cannot be read here, and how many have any."""
        flips = [pair for task in self.tasks for _, pair in task.flips]
        return sum(pair.why_not is not None for pair in flips), len(flips)


def build_report(
    summaries: Sequence[Summary],
    *,
    experiments: Sequence[str] | None = None,
    titles: dict[str, str] | None = None,
    missing: int = 0,
    sensitivity: SensitivityMap | None = None,
    results: Path | str = "results",
    speeds: Sequence[SpeedRecord] = (),
    claims: Sequence[ClaimsRecord] = (),
    withheld: Mapping[str, str] | None = None,
) -> Report:
    """Build the report.

    Args:
        summaries: all published runs, in the order of the project.
        experiments: those to show, None for all; baseline and controls are used in any case.
        titles: question of each experiment, by its name.
        results: the folder with the samples of items that flipped.
        speeds: the measured ones, of all tasks. claims: of all experiments.
        withheld: tasks of which nothing is shown yet, each with the reason (`claim_results`).
    """
    waiting = withheld or {}
    summaries = [summary for summary in summaries if summary.task not in waiting]
    groups = grouped(summaries)
    names = list(
        dict.fromkeys([*(group.experiment for group in groups), *(c.experiment for c in claims)])
    )
    chosen = names if experiments is None else [name for name in names if name in experiments]
    tasks = list(by_task(groups).values())
    most = _flips_per_pair(tasks)
    records = [summary.model_dump(mode="json") for summary in summaries]
    return Report(
        tasks=tuple(
            _task_report(task_groups, chosen, most=most, results=results, speeds=speeds)
            for task_groups in tasks
            if any(group.experiment in chosen for group in task_groups)
        ),
        experiments=tuple(chosen),
        groups=tuple(group for group in groups if group.experiment in chosen),
        alarms=tuple(alarm.removeprefix("ALARM: ") for alarm in disagreements(records)),
        missing=missing,
        titles=titles or {},
        sensitivity=sensitivity,
        claims=tuple(record for record in claims if record.experiment in chosen),
        withheld=tuple(f"{task}: {why}" for task, why in waiting.items()),
    )


def _task_report(
    groups: Sequence[Group],
    chosen: Sequence[str],
    *,
    most: int,
    results: Path | str,
    speeds: Sequence[SpeedRecord],
) -> TaskReport:
    """The report on one task; `most`: flipped items to show of each pair."""
    task = groups[0]
    baseline = task.baseline
    of_task = tuple(s for s in speeds if (s.task, s.limit) == (task.task, task.limit))
    summaries = [summary for group in groups for summary in group.summaries]
    costs = {key_of(run): costs_of(run, baseline, of_task) for run in summaries}
    axes = axes_of(costs.values())
    comparable = [run for run in summaries if not why_other_items(baseline, run)]
    conditions = list(_by_conditions(summaries))
    runs = _run_reports(groups, summaries, chosen, conditions=conditions, costs=costs)
    flips = [
        (run_name(run.summary), pair)
        for run in runs
        if run.shown_with is None and run.summary is not baseline and run.summary.passes
        if (pair := read_flips(baseline, run.summary, most, results=results)).gained + pair.lost
    ]
    return TaskReport(
        task=task.task,
        limit=task.limit,
        baseline=baseline,
        runs=tuple(runs),
        conditions=tuple(", ".join(condition) for condition in conditions),
        axes=axes,
        curves={
            axis.key: control_curve([(run, costs[key_of(run)].get(axis.key)) for run in comparable])
            for axis in axes
        },
        flips=tuple(flips),
        speeds=of_task,
    )


def _run_reports(
    groups: Sequence[Group],
    summaries: Sequence[Summary],
    chosen: Sequence[str],
    *,
    conditions: Sequence[tuple[str, ...]],
    costs: Mapping[RunKey, dict[str, Measured]],
) -> list[RunReport]:
    """The chosen runs of one task, and its baseline."""
    findings, controls = findings_by_run(groups), controls_of(summaries)
    compared = [
        (run, comparison)
        for group in groups
        for run, comparison in group.compared
        if group.experiment in chosen or run is group.baseline
    ]
    leaders = _leaders([run for run, _ in compared])
    members: dict[RunKey, list[str]] = {}
    for (run, _), leader in zip(compared, leaders, strict=True):
        if leader is not run:
            members.setdefault(key_of(leader), []).append(_short_name(run, leader))
    return [
        RunReport(
            summary=run,
            comparison=comparison,
            finding=findings.get(key_of(run)),
            standing=standing_of(run, findings.get(key_of(run)), controls),
            costs=costs[key_of(run)],
            conditions=conditions.index(speed_conditions(run)),
            shown_with=None if leader is run else _short_name(leader, run),
            same=tuple(members.get(key_of(run), ())),
        )
        for (run, comparison), leader in zip(compared, leaders, strict=True)
    ]


def _by_conditions(runs: Sequence[Summary]) -> dict[tuple[str, ...], list[Summary]]:
    """Runs by hardware, dtype and batch size; the conditions of most runs come first."""
    by_conditions: dict[tuple[str, ...], list[Summary]] = {}
    for run in runs:
        by_conditions.setdefault(speed_conditions(run), []).append(run)
    return dict(sorted(by_conditions.items(), key=lambda item: -len(item[1])))


def _leaders(runs: Sequence[Summary]) -> list[Summary]:
    """For each run the one that represents its computation: its origin, or else the first shown."""
    leaders = {(run.experiment, run.config): run for run in runs if run.same_as is None}
    of_runs = []
    for run in runs:
        origin = run.same_as or run
        of_runs.append(leaders.setdefault((origin.experiment, origin.config), run))
    return of_runs


def _short_name(run: Summary, seen_from: Summary) -> str:
    return run.config if run.experiment == seen_from.experiment else run_name(run)


def _flips_per_pair(tasks: Sequence[Sequence[Group]]) -> int:
    pairs = sum(
        any(flipped_items(group.baseline, run))
        for groups in tasks
        for group in groups
        for run in group.summaries
        if run.same_as is None and run.passes
    )
    return max(2, min(MOST_FLIPS, ALL_FLIPS // max(1, pairs)))
