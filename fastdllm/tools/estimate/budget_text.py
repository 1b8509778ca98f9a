"""A budget for people, as a table with its sources, and for programs, as one JSON object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastdllm.tools.estimate.budget import HOUR_S, Budget, BudgetRow
from fastdllm.tools.estimate.estimates import Estimate, Estimates

SCHEMA_VERSION = 1
HEADER = (
    "experiment",
    "task",
    "runs",
    "jobs",
    "items left",
    "s/item",
    "hours/job",
    "GPU-hours",
    "from",
)
NUMBERS = range(2, 8)
UNKNOWN = "?"


@dataclass(frozen=True, slots=True)
class BudgetQuestion:
    """What a budget is asked for: hardware (in words), model, and jobs at once.

    busy: runs with a process or a job already, not counted. gpu: as named by the user, if any.
    profile: folder of the profile, if one was named.
    """

    hardware: str
    model: str
    dtype: str
    jobs_at_once: int
    busy: int = 0
    gpu: str | None = None
    profile: str | None = None


def as_text(budget: Budget, query: BudgetQuestion, estimates: Estimates) -> str:
    """Return the budget as a table with notes."""
    lines = [f"on {query.hardware}, {query.model} in {query.dtype}", ""]
    rows = [HEADER, *(_cells(row) for row in budget.rows), _total(budget)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    for row in rows:
        cells = [
            cell.rjust(width) if column in NUMBERS else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines += ["", *_notes(budget, query), *_not_known(budget, query, estimates)]
    return "\n".join(lines) + "\n"


def hours(seconds: float | None) -> str:
    """Return seconds as hours with three significant digits."""
    if seconds is None:
        return UNKNOWN
    value = seconds / HOUR_S
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def _cells(row: BudgetRow) -> tuple[str, ...]:
    return (
        row.experiment,
        row.task_folder,
        str(row.runs),
        str(row.jobs),
        UNKNOWN if row.items_left is None else f"{row.items_left:,}",
        UNKNOWN if row.seconds_per_item is None else f"{row.seconds_per_item:#.3g}",
        hours(row.longest_job_s),
        hours(row.gpu_s),
        _sources(row),
    )


def _sources(row: BudgetRow) -> str:
    parts = [f"{name} ({count})" for name, count in row.sources.items()]
    if row.batch_sizes:
        parts.append(f"at batch size {', '.join(map(str, row.batch_sizes))}, not the runs' own")
    return ", ".join(parts)


def _total(budget: Budget) -> tuple[str, ...]:
    counted = [e.items_left for e in budget.estimates if e.items_left is not None]
    is_counted = len(counted) == len(budget.estimates)
    items = f"{sum(counted):,}" if is_counted else UNKNOWN
    total = "total, at least" if budget.unknown and budget.gpu_s is not None else "total"
    numbers = (str(len(budget.estimates)), str(len(budget.jobs)), items)
    return (total, "", *numbers, "", "", hours(budget.gpu_s), "")


def _notes(budget: Budget, query: BudgetQuestion) -> list[str]:
    notes = []
    wall_clock_s = budget.wall_clock_s(query.jobs_at_once)
    if wall_clock_s is not None:
        least = "at least " if budget.unknown else ""
        many = "1 job" if query.jobs_at_once == 1 else f"{query.jobs_at_once} jobs"
        notes.append(
            f"{many} at a time: {least}{hours(wall_clock_s)} hours, without waiting in a queue "
            "(--jobs N)"
        )
    estimated = [estimate for estimate in budget.estimates if estimate.decoding_s is not None]
    outside_s = [e.outside_s for e in estimated if e.outside_s is not None]
    if outside_s:
        notes.append(
            f"of each job {min(outside_s):.0f} s are imports and scoring, as in earlier jobs here"
        )
    elif estimated:
        notes.append("imports and scoring were never measured here, and are not included")
    notes += dict.fromkeys(e.speed.note for e in estimated if e.speed and e.speed.note)
    if query.busy:
        notes.append(f"{query.busy} running or queued, not included")
    return notes


def _not_known(budget: Budget, query: BudgetQuestion, estimates: Estimates) -> list[str]:
    """List the runs that the sums leave out, with the command that helps."""
    lines = []
    unplanned = [e for e in budget.unknown if e.items_left is None]
    for task in dict.fromkeys(e.run.task_folder for e in unplanned):
        run = next(e.run for e in unplanned if e.run.task_folder == task)
        limit = f" --limit {run.limit}" if run.limit is not None else ""
        lines.append(f"{task}: not planned yet; type: fastdllm plan --task {run.task}{limit}")
    unmeasured = [e for e in budget.unknown if e.speed is None]
    if unmeasured:
        lines += [f"nothing measured on {query.hardware}: {_names(unmeasured)}"]
        wanted = estimates.hardware(unmeasured[0].run, query.gpu)
        others = [str(hw) for hw in estimates.measured_hardware() if not wanted.matches(hw)]
        if others:
            lines.append(f"  measured on other hardware: {', '.join(others)} (--gpu NAME)")
        gpu = "" if query.gpu is None else f" gpu={query.gpu}"
        profile = query.profile or ("profiles/local" if query.gpu is None else "profiles/pace")
        command = f"snakemake --profile {profile} --config limit=20{gpu}"
        lines.append(f"  decode some items first: {command}")
    return lines


def _names(estimates: Sequence[Estimate]) -> str:
    counts: dict[str, int] = {}
    for estimate in estimates:
        name = f"{estimate.run.experiment}/{estimate.run.task_folder}"
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{name} ({count})" for name, count in counts.items())


def as_record(budget: Budget, query: BudgetQuestion, estimates: Estimates) -> dict[str, Any]:
    """Return what --json prints; unknown values are absent."""
    wall_clock_s = budget.wall_clock_s(query.jobs_at_once)
    totals = {
        "runs": len(budget.estimates),
        "runs_unknown": len(budget.unknown),
        "running_or_queued": query.busy,
        "jobs": len(budget.jobs),
        "gpu_hours": _in_hours(budget.gpu_s),
        "jobs_at_once": query.jobs_at_once,
        "wall_clock_hours": _in_hours(wall_clock_s),
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "hardware": query.hardware,
        "model": query.model,
        "dtype": query.dtype,
        "totals": _known(totals),
        "rows": [_row_record(row) for row in budget.rows],
        "runs": [_run_record(estimate, query, estimates) for estimate in budget.estimates],
        "measured_hardware": [str(hardware) for hardware in estimates.measured_hardware()],
    }


def _row_record(row: BudgetRow) -> dict[str, Any]:
    return _known(
        {
            "experiment": row.experiment,
            "task": row.task_folder,
            "runs": row.runs,
            "runs_unknown": row.unknown,
            "jobs": row.jobs,
            "items_left": row.items_left,
            "seconds_per_item": row.seconds_per_item,
            "longest_job_hours": _in_hours(row.longest_job_s),
            "gpu_hours": _in_hours(row.gpu_s),
            "sources": dict(row.sources),
        }
    )


def _run_record(estimate: Estimate, query: BudgetQuestion, estimates: Estimates) -> dict[str, Any]:
    run, speed = estimate.run, estimate.speed
    return _known(
        {
            "experiment": run.experiment,
            "task": run.task,
            "config": run.config,
            "limit": run.limit,
            "items": estimate.items,
            "items_left": estimate.items_left,
            "source": estimate.basis.value,
            "seconds_per_item": None if speed is None else speed.seconds_per_item,
            "measured_batch_size": None if speed is None else speed.batch_size,
            "published": None if speed is None else speed.note,
            "decoding_s": estimate.decoding_s,
            "startup_s": estimate.startup_s,
            "outside_s": estimate.outside_s,
            "minutes_to_ask_for": estimates.minutes(run, gpu=query.gpu),
        }
    )


def _in_hours(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / HOUR_S


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
