"""The runs of a project joined with this user's SLURM jobs: which job works on which run.

A job is known by its comment (rule and wildcards) and its working directory, this project. It makes
one run, one shard of a run, or a pack of runs. Outside SLURM squeue is not called.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastdllm.cluster.jobs import MAIN_COMMENT, SLURM_LOGS, comment_of
from fastdllm.cluster.slurm import WAITING, Job, SlurmError, has_slurm, own_jobs
from fastdllm.cluster.states import waiting_reason
from fastdllm.common.errors import UserError
from fastdllm.runs.attempts import Attempt
from fastdllm.runs.packs import members_path, read_members
from fastdllm.runs.shards import Shard, shard_named
from fastdllm.runs.stopping import TIME_LIMIT
from fastdllm.workflow.project.runs import Run

# A controller serves all users of a cluster: several looks within seconds need one answer.
MAX_AGE_S = 5.0
_EVAL, _SHARD, _PACK = (comment_of(rule, [""]) for rule in ("eval", "shard", "pack"))
_NO_CLUSTER = "configuration source"


@dataclass(frozen=True, slots=True)
class RunJob:
    """A job, and what it does for a run.

    shard: the part of the run that it makes. pack: the id of the pack the run is in.
    """

    job: Job
    rule: str
    shard: Shard | None = None
    pack: str | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether it has no node (yet, or again)."""
        return self.job.state in WAITING

    @property
    def is_at_work(self) -> bool:
        """Whether it has a node."""
        return self.job.is_live and not self.is_waiting

    @property
    def start(self) -> str | None:
        """When it started, or is expected to; None for one that first needs a person."""
        needs_person = waiting_reason(self.job.state, self.job.reason).needs_person
        return None if self.is_waiting and needs_person else self.job.start


@dataclass(frozen=True, slots=True)
class Queue:
    """What squeue, and SLURM's own logs, know of this project's runs.

    problem: why squeue did not answer, in one line.
    live: all jobs of this user that wait or run, whatever they do, by their ids.
    mains: the jobs of `fastdllm submit` in this folder; those of the last minutes included.
    logs: the folders of SLURM's own logs, by the comment of the jobs that wrote there.
    """

    problem: str = ""
    live: Mapping[str, Job] = field(default_factory=dict)
    mains: tuple[Job, ...] = ()
    logs: Mapping[str, Path] = field(default_factory=dict)
    _by_comment: Mapping[str, tuple[RunJob, ...]] = field(default_factory=dict)
    _by_folder: Mapping[str, tuple[RunJob, ...]] = field(default_factory=dict)
    _packs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, run: Run) -> tuple[RunJob, ...]:
        """The jobs of a run, one for each of its shards; those of the last minutes included."""
        return self._by_comment.get(comment_of("eval", names_of(run)), ()) + self._by_folder.get(
            str(run.folder), ()
        )

    def logs_of(self, run: Run, shard: Shard | None = None) -> list[Path]:
        """The folders of SLURM's own logs of the jobs that made a run, or a shard of it."""
        names = names_of(run)
        if shard is not None:
            comments = [comment_of("shard", [*names, str(shard)])]
        else:
            packs = self._packs.get(str(run.folder), ())
            comments = [comment_of("eval", names), *(comment_of("pack", [p]) for p in packs)]
        return [self.logs[comment] for comment in comments if comment in self.logs]


def read_queue(*, max_age_s: float = MAX_AGE_S) -> Queue | None:
    """Ask squeue, once, about the jobs of the project in the current folder; None outside SLURM."""
    if not has_slurm():
        return None
    try:
        return queue_of(own_jobs(max_age_s=max_age_s))
    except SlurmError as error:
        # SLURM's commands are installed, but belong to no cluster.
        return None if _NO_CLUSTER in str(error) else Queue(problem=str(error))


def queue_of(jobs: Iterable[Job]) -> Queue:
    """Sort the jobs of the project in the current folder by the runs that they make."""
    folder = Path.cwd()
    by_comment: dict[str, list[RunJob]] = {}
    by_folder: dict[str, list[RunJob]] = {}
    packs: dict[str, list[str]] = {}
    logs = _log_folders()
    live, mains = {}, []
    for job in jobs:
        if job.is_live:
            live[job.id] = job
        is_ours = job.comment.startswith((_EVAL, _SHARD, _PACK, MAIN_COMMENT))
        if not is_ours or not job.is_in(folder):
            continue
        if job.comment == MAIN_COMMENT:
            mains.append(job)
        elif job.comment.startswith(_EVAL):
            by_comment.setdefault(job.comment, []).append(RunJob(job, "eval"))
        elif job.comment.startswith(_PACK):
            pack = job.comment.removeprefix(_PACK)
            for member in pack_members(pack):
                by_folder.setdefault(member, []).append(RunJob(job, "pack", pack=pack))
        else:
            name, _, ending = job.comment.removeprefix(_SHARD).rpartition("_")
            if (shard := shard_named(ending)) is not None:
                key = comment_of("eval", [name])
                by_comment.setdefault(key, []).append(RunJob(job, "shard", shard=shard))
    for comment in logs:
        if comment.startswith(_PACK):
            pack = comment.removeprefix(_PACK)
            for member in pack_members(pack):
                packs.setdefault(member, []).append(pack)
    return Queue(
        live=live,
        mains=tuple(mains),
        logs=logs,
        _by_comment={key: _current(run_jobs) for key, run_jobs in by_comment.items()},
        _by_folder={key: _current(run_jobs) for key, run_jobs in by_folder.items()},
        _packs={key: tuple(names) for key, names in packs.items()},
    )


def names_of(run: Run) -> tuple[str, str, str]:
    """Return the values of the wildcards of a run's jobs."""
    return run.experiment, run.task_folder, run.config


def may_make(job: Job, run: Run) -> bool:
    """Whether a job of any folder may work on a run, whose folder clones may share.

    A job that Snakemake submitted says what it makes; any other may be an interactive one.
    """
    names = names_of(run)
    is_own = job.comment == comment_of("eval", names)
    is_part = job.comment.startswith((comment_of("shard", [*names, ""]), _PACK))
    return is_own or is_part or not job.comment.startswith("rule_")


def refuse_ambiguous(runs: Iterable[Run]) -> None:
    """Refuse runs whose SLURM jobs could not be distinguished.

    Raises:
        UserError: names that are the same text once they are joined, as in a job's comment.
    """
    seen: dict[str, Run] = {}
    for run in runs:
        other = seen.setdefault(comment_of("eval", names_of(run)), run)
        if other is not run:
            raise UserError(
                f"runs {other.name} and {run.name}: their names joined by _ are the same, so that "
                "their SLURM jobs could not be distinguished; rename a config or an experiment"
            )


def pack_members(pack: str) -> list[str]:
    """Return the folders of the runs in a pack, none if its list cannot be read."""
    try:
        return [str(spec.parent) for spec in read_members(members_path(pack))]
    except UserError:
        return []  # locks still show which of its runs are at work


def _log_folders() -> Mapping[str, Path]:
    folders: dict[str, Path] = {}
    for rule in ("eval", "shard", "pack"):
        folder = SLURM_LOGS / f"rule_{rule}"
        try:
            folders |= {comment_of(rule, [path.name]): path for path in folder.iterdir()}
        except OSError:
            continue
    return folders


def reason_in_words(job: Job) -> str:
    """Return why a job waits."""
    if job.reason == "BeginTime" and job.restarts:
        return "waits for its next turn after a requeue"
    reason = waiting_reason(job.state, job.reason)
    return f"{reason.words}: {reason.fix.format(id=job.id)}" if reason.fix else reason.words


def requeues_in_words(job: Job, attempts: Sequence[Attempt]) -> str:
    """Return how often a job lost its node, and why if recorded; may be empty."""
    whys = [attempt.why for attempt in attempts if attempt.slurm_job == job.id]
    preempted = min(whys.count("SIGTERM"), job.restarts)
    limits = min(whys.count(TIME_LIMIT), job.restarts - preempted)
    others = job.restarts - preempted - limits
    parts = [(preempted, "preempted"), (limits, "out of time"), (others, "requeued")]
    return ", ".join(f"{words} {_times(count)}" for count, words in parts if count)


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _current(jobs: list[RunJob]) -> tuple[RunJob, ...]:
    """Return one job for each rule and shard: the one that counts."""
    chosen: dict[tuple[Any, ...], RunJob] = {}
    for job in jobs:
        key = job.rule, job.shard
        if key not in chosen or _rank(job) > _rank(chosen[key]):
            chosen[key] = job
    return tuple(chosen[key] for key in sorted(chosen, key=str))


def _rank(job: RunJob) -> tuple[bool, bool, int]:
    """Rank jobs: first one with a node, then the first that waits, then the one that ended last."""
    digits = job.job.id.partition("_")[0]
    number = int(digits) if digits.isdigit() else 0
    return job.is_at_work, job.job.is_live, -number if job.job.is_live else number
