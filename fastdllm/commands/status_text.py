"""The text of `fastdllm status`: grids, reasons, totals, what to type next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

from fastdllm.commands.status_main import Main
from fastdllm.commands.status_record import ToMake, to_make
from fastdllm.common.console import counted
from fastdllm.common.paths import ARTIFACTS, LOGS, RESULTS
from fastdllm.workflow.main_process import Life
from fastdllm.workflow.preview import copies_in_words
from fastdllm.workflow.project.artifacts import origin_of
from fastdllm.workflow.project.config_files import WorkflowConfig
from fastdllm.workflow.speed_states import SpeedState, SpeedStatus
from fastdllm.workflow.status.run_status import RunStatus, State

STYLES = {
    State.DONE: "32",
    State.UNPUBLISHED: "36",
    State.RUNNING: "34",
    State.QUEUED: "94",
    State.FAILED: "31",
    State.INTERRUPTED: "35",
    State.STALE: "33",
    State.MISSING: "2",
}
# What fits on a screen; --json has all reasons.
MOST_REASONS = 30
# Where not all are shown, these are.
URGENT = (State.FAILED, State.INTERRUPTED, State.RUNNING, State.QUEUED)


def as_text(
    statuses: Sequence[RunStatus],
    next_command: str,
    alarms: Sequence[str],
    *,
    notes: Sequence[str] = (),
    mains: Sequence[Main] = (),
    config: WorkflowConfig | None = None,
    notices: Mapping[str, Sequence[str]] | None = None,
    speeds: Sequence[SpeedStatus] = (),
    color: bool,
) -> str:
    """Return the text: grids, reasons, alarms, notes, notices, totals, folders, processes, next."""
    lines: list[str] = []
    for experiment in dict.fromkeys(status.run.experiment for status in statuses):
        group = [status for status in statuses if status.run.experiment == experiment]
        lines += [*_grid(experiment, group, color=color), ""]
    shown = reasons(statuses)
    if shown:
        lines += [_styled_line(state, title, rest, color=color) for state, title, rest in shown]
        lines += [""]
    warnings = [*alarms, *notes]
    if warnings:
        lines += [*(styled(text, State.FAILED, color=color) for text in warnings), ""]
    if notices:
        lines += [*(styled(n, State.STALE, color=color) for n in _notice_lines(notices)), ""]
    lines += [
        totals(statuses, color=color),
        *_work(to_make(statuses, config)),
        *_speed_lines(speeds),
        f"results: {RESULTS}/  logs: {LOGS}/eval/  published: {ARTIFACTS}/",
        *_main_lines(mains),
        f"next:    {next_command}",
    ]
    return "\n".join(lines) + "\n"


def _speed_lines(speeds: Sequence[SpeedStatus]) -> list[str]:
    """Return how many speeds are measured, and what measures the others."""
    left = [status for status in speeds if status.state is not SpeedState.DONE]
    if not speeds:
        return []
    line = f"speeds:  {len(speeds) - len(left)} of {len(speeds)} measured and published"
    if not left:
        return [f"{line} (fastdllm speed)"]
    return [f"{line}; {', '.join(status.line for status in left)} (snakemake speed)"]


def totals(statuses: Sequence[RunStatus], *, color: bool) -> str:
    """Return how many runs there are, and in which states."""
    counts = Counter(status.state for status in statuses)
    parts = [styled(f"{counts[s]} {s}", s, color=color) for s in State if counts[s]]
    copies = sum(origin_of(status.record, status.run) is not None for status in statuses)
    shared = f" ({copies} the same computation as another)" if copies else ""
    return f"{counted(len(statuses), 'run')}: {', '.join(parts)}{shared}"


def reasons(statuses: Sequence[RunStatus]) -> list[tuple[State, str, str]]:
    """Return state, title and the rest of a line per reason, the urgent first.

    Runs that share a reason (a changed threshold, a full partition) are counted, not repeated.
    """
    grouped: dict[tuple[State, str, str], list[RunStatus]] = {}
    for status in statuses:
        has_reason = status.why or status.title != status.state
        if has_reason and (status.state is not State.UNPUBLISHED or status.is_truncated):
            grouped.setdefault((status.state, status.title, status.why), []).append(status)
    ranked = sorted(grouped.items(), key=lambda item: _rank(item[0][0]))
    lines = []
    for (state, title, why), group in ranked[:MOST_REASONS]:
        more = f" and {len(group) - 1} more" if len(group) > 1 else ""
        reason = f": {why}" if why else ""
        start = first_start(group) if state is State.QUEUED else ""
        lines.append((state, title, f"{group[0].run.name}{more}{reason}{start}"))
    if len(grouped) > MOST_REASONS:
        n_left = len(grouped) - MOST_REASONS
        lines.append((State.MISSING, "...", f"and {n_left} more reasons (--json has all)"))
    return lines


def first_start(statuses: Sequence[RunStatus]) -> str:
    """Return when the first of the waiting jobs should start; empty if SLURM does not know."""
    now = datetime.now()
    starts = [
        datetime.fromisoformat(job.start)
        for status in statuses
        for job in status.jobs
        if job.is_waiting and job.start
    ]
    coming = [start for start in starts if start > now]
    if not coming:
        return ""
    return f"; expected to start at {clock_time(min(coming), now)}"


def clock_time(moment: datetime, now: datetime) -> str:
    """Return `14:32` today, `Fri 14:32` in the coming days, with the date beyond a week."""
    days = (moment.date() - now.date()).days
    return moment.strftime("%H:%M" if days == 0 else "%a %H:%M" if days < 7 else "%Y-%m-%d %H:%M")


def styled(text: str, state: State, *, color: bool) -> str:
    """Return the text in the colour of a state."""
    return f"\033[{STYLES[state]}m{text}\033[0m" if color else text


def _main_lines(mains: Sequence[Main]) -> list[str]:
    """Return the lines of those that live or may live; a note tells how another one ended."""
    lines = []
    for main in mains:
        if main.life is not Life.DEAD:
            lines.append(f"main:    {main.words}" + (f": {main.command}" if main.command else ""))
            lines += [f"         tail -f {main.log}"] if main.log is not None else []
    return lines


def _notice_lines(notices: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the first notice of each task, and the number of the others."""
    return [
        f"noticed in {task}: {first}" + (f"; and {len(more)} more (--json has all)" if more else "")
        for task, (first, *more) in notices.items()
    ]


def _styled_line(state: State, title: str, rest: str, *, color: bool) -> str:
    return f"{styled(title, state, color=color)}  {rest}"


def _rank(state: State) -> int:
    return URGENT.index(state) if state in URGENT else len(URGENT)


def _work(work: ToMake) -> list[str]:
    if not work.runs and not work.copies:
        return []
    words = counted(work.gpu_jobs, "GPU job")
    words += f" for {counted(work.runs, 'run')}" if work.gpu_jobs != work.runs else ""
    words += f", {copies_in_words(work.copies)}" if work.copies else ""
    return [f"to make: {words}"]


def _grid(experiment: str, statuses: Sequence[RunStatus], *, color: bool) -> list[str]:
    tasks = list(dict.fromkeys(status.run.task_folder for status in statuses))
    states = {(s.run.config, s.run.task_folder): s.state for s in statuses}
    configs = list(dict.fromkeys(status.run.config for status in statuses))
    first = max(len(name) for name in [experiment, *configs])
    widths = [max(len(task), len(State.UNPUBLISHED)) for task in tasks]
    header = [task.ljust(width) for task, width in zip(tasks, widths, strict=True)]
    lines = [f"{experiment.ljust(first)}  {'  '.join(header)}".rstrip()]
    for config in configs:
        cells = []
        for task, width in zip(tasks, widths, strict=True):
            state = states.get((config, task))
            # Padding before colour: the escape codes must not count as width.
            text = (state or "-").ljust(width)
            cells.append(styled(text, state, color=color) if state else text)
        lines.append(f"{config.ljust(first)}  {'  '.join(cells)}".rstrip())
    return lines
