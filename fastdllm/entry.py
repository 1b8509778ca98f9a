"""What the Snakefile calls: load the project, reconcile its files, print what will be made.

The main Snakemake process reconciles; the processes of single jobs, which read the Snakefile again,
get an empty project and touch nothing. A user's mistake ends Snakemake with one line and code 2.
"""

from __future__ import annotations

import atexit
import math
import os
import re
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fastdllm.cluster.checks import check_link
from fastdllm.cluster.choice import Choice
from fastdllm.common.console import notice
from fastdllm.common.errors import USER_ERROR_EXIT_CODE, UserError
from fastdllm.common.paths import PLANS, RESULTS, check_code
from fastdllm.machine.process import user_name
from fastdllm.runs.attempts import RESTARTS_VARIABLE
from fastdllm.runs.needs import require_permission
from fastdllm.tasks.plan import planned_sizes
from fastdllm.tools.estimate.estimates import Estimates
from fastdllm.workflow.claim_results import doubts
from fastdllm.workflow.main_process import UNLOCK, claim_folder, held_outputs, refuse_overlap
from fastdllm.workflow.prepare import prepare
from fastdllm.workflow.preview import made_by, preview
from fastdllm.workflow.project.runs import Run, load_project
from fastdllm.workflow.project.selection import Selection
from fastdllm.workflow.project.speeds import SpeedMeasurement, speed_measurements
from fastdllm.workflow.reconcile import reconcile
from fastdllm.workflow.speed_states import reconcile_speeds, speeds_preview
from fastdllm.workflow.splitting import JobSplit, split_into_jobs, update_part_files
from fastdllm.workflow.status.queue import Queue, read_queue, refuse_ambiguous
from fastdllm.workflow.status.run_status import RunStatus, State
from fastdllm.workflow.targets import Targets, check_targets

# A regular expression that nothing matches.
NEVER = "(?!)"
# What a job asks for if neither an estimate nor a queue gives a time: 8 hours.
DEFAULT_MINUTES = 480


def open_call(
    options: Mapping[str, Any], *, is_main_process: bool, is_dry_run: bool, log: str | None = None
) -> Call:
    """Select and reconcile the runs of this Snakemake call.

    Args:
        options: the keys and values of `--config`. log: Snakemake's own.
    """
    try:
        check_code(Path.cwd())
        if not is_main_process:
            # SLURM's warning of a time limit is for the eval, but reaches all processes of a job.
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            if "SLURM_RESTART_COUNT" in os.environ:
                os.environ[RESTARTS_VARIABLE] = os.environ["SLURM_RESTART_COUNT"]
            return Call(planned=None)
        targets = _targets()
        if targets.is_training_only:
            return Call()
        if UNLOCK in sys.argv[1:]:
            # Removing a lock must not depend on anything else being in order.
            claim_folder(is_dry_run=False)
            return Call()
        if not is_dry_run and user_name() is None:
            raise UserError(
                f"user id {os.getuid()} has no name here (no entry in passwd), and Snakemake asks "
                "for one; export USER=<name>, and type the same command again"
            )
        numbers = {key for key, value in options.items() if isinstance(value, int | float)}
        typed = {key: targets.words.get(key, options[key]) for key in numbers - {"limit"}}
        selection = Selection.from_options({**options, **typed})
        return _planned_call(selection, targets, is_dry_run=is_dry_run, log=log)
    except UserError as error:
        notice(str(error))
        sys.exit(USER_ERROR_EXIT_CODE)


def _targets() -> Targets:
    # Started through Snakemake's Python interface there is no command line to read.
    if Path(sys.argv[0]).name not in ("snakemake", "__main__.py"):
        return Targets()
    return Targets.from_command_line(sys.argv[1:])


def _planned_call(
    selection: Selection, targets: Targets, *, is_dry_run: bool, log: str | None
) -> Call:
    check_link(RESULTS)
    project = load_project(selection)
    gpu = selection.cluster.get("gpu") or project.config.cluster.gpu
    speeds = speed_measurements(project, gpu=gpu, is_asked=targets.asks_for_speeds)
    check_targets(targets, project, speeds)
    choice = prepare(
        project.config,
        selection.cluster,
        sys.argv[1:],
        is_dry_run=is_dry_run,
        folder=Path.cwd(),
        tasks=selection.tasks,
    )
    if choice is not None:
        refuse_ambiguous(project.all_runs)
    claim_folder(is_dry_run=is_dry_run, log=log)
    statuses = reconcile(
        project,
        jobs=_queue(is_needed=choice is not None and not is_dry_run),
        restore=selection.restore,
        is_repeated=targets.forces,
        is_wanted=targets.wants,
        held=held_outputs(),
        is_dry_run=is_dry_run,
    )
    left_out = left_out_of(statuses, is_submitted=choice is not None)
    free = [status for status in statuses if status.run.name not in left_out]
    made = made_by(free, targets)
    decoded = [status for status in made if status.leader is None]
    if not is_dry_run:
        refuse_overlap(str(status.run.summary_path) for status in made)
        if choice is not None:
            for task in sorted({status.run.task for status in decoded}):
                source = project.config.task_source(task)
                require_permission(source, partial(bool, project.config.allow_code_execution))
    split = split_into_jobs(decoded, project.config)
    update_part_files(split, [status.run for status in decoded])
    text = choice.text if choice is not None else ""
    text += preview(statuses, made, targets, split, left_out, is_dry_run=is_dry_run)
    measured = reconcile_speeds(
        [speed for speed in speeds if targets.measures(speed)],
        is_repeated=targets.forces_speed,
        held=held_outputs(),
        is_dry_run=is_dry_run,
    )
    text += speeds_preview(measured, is_dry_run=is_dry_run)
    timed = (run for s in measured if s.is_to_be_made for run in s.measurement.runs.values())
    text += doubts(project, [*(status.run for status in decoded), *timed])
    if not is_dry_run:
        refuse_overlap(str(s.measurement.record_path) for s in measured if s.is_to_be_made)
    if is_dry_run:
        # Behind Snakemake's own list of all jobs.
        atexit.register(sys.stderr.write, text)
    else:
        sys.stderr.write(text)
    has_estimates = choice is not None and choice.gpu is not None
    return Call(
        runs=tuple(status.run for status in free),
        planned=frozenset(str(s.run.summary_path) for s in free if s.is_to_be_made),
        leaders={str(s.run.summary_path): s.leader.folder for s in free if s.leader is not None},
        decoded={str(status.run.spec_path): status.run for status in decoded},
        split=split,
        parts=split.parts(status.run for status in decoded),
        choice=choice,
        estimates=Estimates.load([s.run for s in decoded]) if has_estimates else None,
        speeds=tuple(status.measurement for status in measured),
        unmeasured={
            str(s.measurement.record_path): list(map(str, s.measurement.sitting_paths))
            for s in measured
            if s.is_to_be_made
        },
    )


def _queue(*, is_needed: bool) -> Queue | None:
    """Return what SLURM knows of this project's runs.

    Raises:
        UserError: squeue gives no answer, though it is needed.
    """
    # An answer of some seconds ago may lack a job that was submitted since.
    queue = read_queue(max_age_s=0.0)
    if is_needed and (queue is None or queue.problem):
        problem = queue.problem if queue is not None else "squeue: belongs to no cluster here"
        raise UserError(
            f"{problem}; without it, runs that have a job already are unknown; try again later"
        )
    return queue


def left_out_of(statuses: Sequence[RunStatus], *, is_submitted: bool) -> frozenset[str]:
    """Return the names of the runs made by other processes, and of those made from these.

    What a SLURM job of this project makes is followed by a call that submits such jobs itself.
    """
    busy = {
        status.run.name
        for status in statuses
        if status.state in (State.RUNNING, State.QUEUED)
        and not (is_submitted and status.is_adopted)
    }
    followers = {
        status.run.name
        for status in statuses
        if status.leader is not None and status.is_to_be_made and status.leader.name in busy
    }
    return frozenset(busy | followers)


@dataclass(frozen=True, slots=True)
class Call:
    """One Snakemake call, as the rules see it: its runs, and the summaries that it makes.

    runs: those that no other process is making, apart from SLURM jobs of this folder.
    planned: the summaries to be made; None in the process of a single job.
    leaders: for the summary of each run that is made from another's, the folder of that one.
    decoded: the runs to be decoded, by their specs.
    split: which of them are split into shards, or packed.
    parts: for the summary of each of these, the files that show that its parts are done.
    choice: what jobs ask SLURM for. estimates: of the time they need on its GPU.
    speeds: the measurements among the targets. unmeasured: the sittings of those to be made, by
    their record.
    """

    runs: tuple[Run, ...] = ()
    planned: frozenset[str] | None = frozenset()
    leaders: Mapping[str, Path] = field(default_factory=dict)
    decoded: Mapping[str, Run] = field(default_factory=dict)
    split: JobSplit = field(default_factory=JobSplit)
    parts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    choice: Choice | None = None
    estimates: Estimates | None = None
    speeds: tuple[SpeedMeasurement, ...] = ()
    unmeasured: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def sittings(self, record: str) -> list[str]:
        """The sittings that a speed.json is made from, where it is to be made."""
        return list(self.unmeasured.get(record, ()))

    def is_planned(self, summary: str) -> bool:
        """Whether a summary is going to be made, and so needs the plan of its task."""
        return self.planned is None or summary in self.planned

    def leader(self, summary: str) -> str:
        """The folder of the run that a summary is made from."""
        return str(self.leaders[summary])

    def awaited(self, summary: str) -> list[str]:
        """The leader's summary, where it has to be made first."""
        leader = str(self.leaders[summary] / "summary.json")
        return [leader] if self.planned and {leader, summary} <= self.planned else []

    def copies_pattern(self) -> str:
        """A regular expression of the runs (experiment/task/config) that are made from another."""
        return _pattern(self.leaders)

    def parts_pattern(self) -> str:
        """A regular expression of the runs that are split into shards or packed."""
        return _pattern(self.parts)

    def plans_of(self, specs: Iterable[str]) -> list[str]:
        """The plans that the runs of a pack need, by the specs of these runs."""
        folders = [Path(spec).parent for spec in specs]
        needed = [folder for folder in folders if self.is_planned(str(folder / "summary.json"))]
        return [str(PLANS / task / "plan.json") for task in sorted({f.parts[2] for f in needed})]

    def minutes(self, specs: Sequence[str], attempt: int) -> int:
        """The time to ask SLURM for, for a job that works on the runs of these specs."""
        most = (self.choice.max_minutes if self.choice is not None else None) or DEFAULT_MINUTES
        gpu = self.choice.gpu if self.choice is not None else None
        runs = [self.decoded[spec] for spec in specs if spec in self.decoded]
        if self.estimates is None or gpu is None or not runs:
            return most
        share = max(_largest_share(run, self.split.shards.get(run.name, 1)) for run in runs)
        minutes = self.estimates.minutes_of_pack(runs, gpu=gpu, share=share, attempt=attempt)
        return most if minutes is None else min(minutes, most)


def _pattern(summaries: Iterable[str]) -> str:
    by_task: dict[Path, list[str]] = {}
    for folder in sorted(Path(summary).parent.relative_to(RESULTS) for summary in summaries):
        by_task.setdefault(folder.parent, []).append(re.escape(folder.name))
    parts = [f"{re.escape(str(task))}/(?:{'|'.join(configs)})" for task, configs in by_task.items()]
    return "|".join(parts) or NEVER


def _largest_share(run: Run, shards: int) -> float:
    """Return the largest part of a run that a shard decodes: of 5 chunks, one of 4 takes 2."""
    chunks = len(planned_sizes(run.plan_folder) or ()) if shards > 1 else 0
    return math.ceil(chunks / shards) / chunks if chunks else 1 / shards
