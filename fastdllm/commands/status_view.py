"""One look at the project: states of runs, what to type next, alarms, notes."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastdllm.cluster.slurm import JobState, SlurmError, accounted
from fastdllm.commands.status_main import Main, main_processes_of
from fastdllm.statistics.disagreements import disagreements
from fastdllm.workflow.main_process import Life, MainProcess, main_processes
from fastdllm.workflow.project.runs import Project, TaskPlan
from fastdllm.workflow.project.speeds import speed_measurements
from fastdllm.workflow.shared_computations import assign_leaders
from fastdllm.workflow.speed_states import SpeedStatus, speed_status
from fastdllm.workflow.status.queue import MAX_AGE_S, Queue, read_queue
from fastdllm.workflow.status.run_status import RunStatus, State, inspect, with_accounts


@dataclass(frozen=True, slots=True)
class View:
    """The result of one look at the project.

    notes: lines about SLURM, Snakemake and plans, rather than about a run.
    mains: the main processes that live, or how the last one ended.
    notices: by task, what its plan and its results name about items and model, and do not refuse.
    speeds: the measurements of the selected experiments and tasks.
    """

    statuses: list[RunStatus]
    next_command: str
    alarms: list[str]
    queue: Queue | None
    notes: list[str]
    mains: list[Main]
    notices: Mapping[str, list[str]] = field(default_factory=dict)
    speeds: Sequence[SpeedStatus] = ()


@dataclass(slots=True)
class Accounts:
    """Answers of sacct about jobs that ended; asked once for each, as they never change."""

    _known: dict[str, JobState] = field(default_factory=dict)
    _asked: set[str] = field(default_factory=set)

    def __call__(self, ids: Iterable[str]) -> Mapping[str, JobState]:
        new = set(ids) - self._asked
        self._asked |= new
        with suppress(SlurmError):  # their reasons are only an addition
            self._known |= accounted(new)
        return self._known


def look(
    project: Project,
    options: Mapping[str, Any],
    accounts: Callable[[Iterable[str]], Mapping[str, JobState]],
) -> View:
    """Look at the selected runs once."""
    queue = read_queue()
    by_name = {run.name: inspect(run, jobs=queue) for run in project.all_runs}
    selected = [by_name[run.name] for run in project.runs]
    statuses = assign_leaders(selected, project, look=lambda run: by_name[run.name])
    statuses = with_accounts(statuses, accounts)
    processes = main_processes(max_age_s=MAX_AGE_S)
    mains = main_processes_of(queue, processes, accounts)
    profile = profile_of(queue, [*(main.command for main in mains), *_commands(processes)])
    return View(
        statuses=statuses,
        next_command=suggest(statuses, options, profile=profile, mains=mains),
        # A selected run may contradict one that is not.
        alarms=alarms(list(by_name.values())),
        queue=queue,
        notes=[*failed_plans(project.plans, statuses), *notes(statuses, queue, processes, mains)],
        mains=mains,
        notices=notices(project.plans, statuses),
        speeds=[
            speed_status(m) for m in speed_measurements(project, gpu=project.config.cluster.gpu)
        ],
    )


def failed_plans(plans: Iterable[TaskPlan], statuses: Sequence[RunStatus]) -> list[str]:
    """Return why tasks could not be planned, of those with runs that wait for it."""
    waiting = {s.run.task_folder for s in statuses if not s.state.has_result}
    return [
        f"{plan.task_folder} could not be planned: {failure}"
        for plan in plans
        if plan.task_folder in waiting and (failure := plan.failure()) is not None
    ]


def notices(plans: Iterable[TaskPlan], statuses: Sequence[RunStatus]) -> dict[str, list[str]]:
    """Return the notices of the plans and the current results of tasks, for those that have any."""
    found = {plan.task_folder: dict.fromkeys(plan.notices()) for plan in plans}
    for status in statuses:
        of_run = (status.record or {}).get("notices")
        if isinstance(of_run, list):  # a record is read as it is
            found.setdefault(status.run.task_folder, {}).update(dict.fromkeys(map(str, of_run)))
    return {task: list(lines) for task, lines in found.items() if lines}


def notes(
    statuses: Sequence[RunStatus],
    queue: Queue | None,
    processes: Sequence[tuple[MainProcess, Life]],
    mains: Sequence[Main] = (),
) -> list[str]:
    """Return lines about SLURM, and about the Snakemake that submits the jobs."""
    if queue is None:
        return []
    if queue.problem:
        return [f"{queue.problem}; what waits or runs on other nodes is not known"]
    is_adopted = any(status.is_adopted for status in statuses)
    if mains or not is_adopted:
        is_all_done = all(status.state.has_result for status in statuses)
        ended = [main for main in mains if main.life is Life.DEAD and not is_all_done]
        return [_has_ended(main, is_adopted=is_adopted) for main in ended]
    last = max((p for p, _ in processes), key=lambda process: process.since, default=None)
    if last is None:
        return [
            "no snakemake is at work here: the jobs continue; the same command submits the rest"
        ]
    return [f"{last.words} has died: the jobs continue; what submits the rest: {last.command}"]


def _has_ended(main: Main, *, is_adopted: bool) -> str:
    jobs = "; its jobs continue" if is_adopted else ""
    log = f" (log: {main.log})" if main.log is not None else ""
    return f"{main.words}{log}{jobs}; what goes on: {main.command}"


def suggest(
    statuses: Sequence[RunStatus],
    options: Mapping[str, Any],
    *,
    profile: str | None = None,
    mains: Sequence[Main] = (),
) -> str:
    """Return the next command to type.

    Args:
        profile: Snakemake's, to submit jobs to this cluster.
        mains: the main processes that live, or the one that ended last.
    """
    words = " ".join(f"{key}={value}" for key, value in options.items() if value is not None)
    counts = Counter(status.state for status in statuses)
    if counts[State.DONE] == len(statuses):
        return "fastdllm table"
    main = mains[0] if mains else None
    if main is not None and main.is_living:
        return _watching(options or main.selection)
    going = counts[State.RUNNING] + counts[State.QUEUED]
    if going and going + counts[State.DONE] == len(statuses):
        return _watching(options)
    failed = [s for s in statuses if s.state is State.FAILED and not s.resumes]
    if failed and len(failed) + counts[State.DONE] == len(statuses):
        run, ending = failed[0].run, failed[0].ending
        log = run.log_path if ending is None else ending.log
        has_log = log is not None and log.exists()
        return f"less {log}" if has_log else f"fastdllm eval {run.spec_path}"
    if main is not None and main.life is Life.DEAD and main.selection == options:
        return main.command
    called = f"snakemake --profile {profile}" if profile else "snakemake"
    return called + (f" --config {words}" if words else "")


def _watching(options: Mapping[str, Any]) -> str:
    pairs = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    return shlex.join(["fastdllm", "status", "--watch", *pairs])


def profile_of(queue: Queue | None, commands: Iterable[str]) -> str | None:
    """Return the profile of the last Snakemake here, else one of a site, None outside SLURM.

    Without one, the runs would be decoded on the log-in node.

    Args:
        commands: that started a main process, the latest first.
    """
    if queue is None or os.environ.get("SNAKEMAKE_PROFILE"):
        return None
    for command in commands:
        words = shlex.split(command)
        if "--profile" in words[:-1]:
            return words[words.index("--profile") + 1]
    return next((str(path.parent) for path in sorted(Path("profiles").glob("*/site.yaml"))), None)


def _commands(processes: Sequence[tuple[MainProcess, Life]]) -> list[str]:
    latest = sorted(processes, key=lambda found: found[0].since, reverse=True)
    return [process.command for process, _ in latest]


def alarms(statuses: Sequence[RunStatus]) -> list[str]:
    """Return disagreements between results of the current settings."""
    return disagreements([status.record for status in statuses if status.record is not None])
