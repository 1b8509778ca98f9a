"""The runs of a project joined with this user's SLURM jobs: which job works on which run.

A job is known by its comment (rule and wildcards) and its working directory, this project. It makes
one run, one shard of a run, or a pack of runs. Outside SLURM there is nothing to ask, and no cost.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastdllm.cluster.jobs import comment_of
from fastdllm.cluster.slurm import Job, SlurmError, has_slurm, own_jobs
from fastdllm.errors import UserError
from fastdllm.files import read_json
from fastdllm.workflow.runs import RESULTS, Run

# A controller serves all users of a cluster: several looks within seconds need one answer.
MAX_AGE_S = 5.0
PACKS = RESULTS / "_packs"
# States of a job that has no node yet, or none again.
WAITING = frozenset(("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"))
_EVAL, _SHARD, _PACK = (comment_of(rule, [""]) for rule in ("eval", "shard", "pack"))
_NO_CLUSTER = "configuration source"

REASONS = {
    "": "not looked at yet",
    "Priority": "behind jobs of higher priority",
    "Resources": "for free resources",
    "BeginTime": "for its begin time",
    "Dependency": "for another job",
    "DependencyNeverSatisfied": "for ever: its dependency failed",
    "JobHeldUser": "held by its owner: scontrol release {id}",
    "JobHeldAdmin": "held by an administrator",
    "JobHoldMaxRequeue": "held after too many requeues: scontrol release {id}",
    "QOSMaxJobsPerUserLimit": "the QOS lets no more of your jobs run at a time",
    "QOSMaxSubmitJobPerUserLimit": "the QOS takes no more of your jobs",
    "QOSMaxWallDurationPerJobLimit": "asks for more time than the QOS gives",
    "QOSMaxGRESPerUser": "the QOS gives you no more GPUs at a time",
    "QOSMaxGRESPerJob": "asks for more GPUs than the QOS gives",
    "QOSMinGRES": "asks for fewer GPUs than the QOS demands",
    "QOSNotAllowed": "the partition does not take this QOS",
    "QOSUsageThreshold": "the QOS has used up its share",
    "AssocGrpBillingMinutes": "the account's budget is used up",
    "AssocGrpGRESMinutes": "the account's budget of GPU time is used up",
    "InvalidAccount": "the account is not valid any more",
    "InvalidQOS": "the QOS is not valid any more",
    "BadConstraints": "for ever: no node has what it asks for",
    "PartitionTimeLimit": "asks for more time than the partition gives",
    "PartitionNodeLimit": "asks for more nodes than the partition gives",
    "PartitionDown": "the partition takes no jobs at the moment",
    "PartitionInactive": "the partition is switched off",
    "ReqNodeNotAvail": "its nodes are down, or reserved for maintenance",
    "Reservation": "for its reservation",
    "NodeDown": "its node is down",
    "Licenses": "for a licence",
}


@dataclass(frozen=True, slots=True)
class RunJob:
    """A job, and what it does for a run.

    shard: (I, N) of shard I of N. pack: the id of the pack the run is in.
    """

    job: Job
    rule: str
    shard: tuple[int, int] | None = None
    pack: str | None = None

    @property
    def is_live(self) -> bool:
        """Whether it waits, runs, or is about to go back into the queue."""
        return self.job.is_live

    @property
    def is_waiting(self) -> bool:
        """Whether it has no node (yet, or again)."""
        return self.job.state in WAITING

    @property
    def is_at_work(self) -> bool:
        """Whether it has a node."""
        return self.is_live and not self.is_waiting


@dataclass(frozen=True, slots=True)
class Queue:
    """What squeue knows of this project's runs. problem: why it did not answer, in one line."""

    problem: str = ""
    by_comment: Mapping[str, tuple[RunJob, ...]] = field(default_factory=dict)
    by_folder: Mapping[str, tuple[RunJob, ...]] = field(default_factory=dict)
    live_ids: frozenset[str] = frozenset()

    def of(self, run: Run) -> tuple[RunJob, ...]:
        """The jobs of a run, one for each of its shards; those of the last minutes included."""
        comment = comment_of("eval", (run.experiment, run.task_folder, run.config))
        return self.by_comment.get(comment, ()) + self.by_folder.get(str(run.folder), ())


def read_queue(*, max_age_s: float = MAX_AGE_S) -> Queue | None:
    """Ask squeue, once, about the jobs of the project in the current folder; None outside SLURM."""
    if not has_slurm():
        return None
    try:
        return queue_of(own_jobs(max_age_s=max_age_s), Path.cwd())
    except SlurmError as error:
        # SLURM's commands are installed, but belong to no cluster.
        return None if _NO_CLUSTER in str(error) else Queue(problem=str(error))


def queue_of(jobs: Iterable[Job], folder: Path) -> Queue:
    """Sort the jobs of the project in `folder` by the runs that they make."""
    there = os.path.realpath(folder)
    by_comment: dict[str, list[RunJob]] = {}
    by_folder: dict[str, list[RunJob]] = {}
    live_ids = set()
    for job in jobs:
        if job.is_live:
            live_ids.add(job.id)
        if not job.comment.startswith((_EVAL, _SHARD, _PACK)):
            continue
        if os.path.realpath(job.work_dir) != there:
            continue
        if job.comment.startswith(_EVAL):
            by_comment.setdefault(job.comment, []).append(RunJob(job, "eval"))
        elif job.comment.startswith(_PACK):
            pack = job.comment.removeprefix(_PACK)
            for member in pack_members(folder, pack):
                by_folder.setdefault(member, []).append(RunJob(job, "pack", pack=pack))
        elif part := re.fullmatch(r"(.+)_(\d+)-of-(\d+)", job.comment.removeprefix(_SHARD)):
            shard = int(part[2]), int(part[3])
            key = comment_of("eval", [part[1]])
            by_comment.setdefault(key, []).append(RunJob(job, "shard", shard=shard))
    return Queue(
        by_comment={key: _current(found) for key, found in by_comment.items()},
        by_folder={key: _current(found) for key, found in by_folder.items()},
        live_ids=frozenset(live_ids),
    )


def pack_members(folder: Path, pack: str) -> list[str]:
    """The folders (results/E/T/C) of the runs in a pack; none when its list cannot be read."""
    try:
        record: Any = read_json(folder / PACKS / pack / "members.json")
        return [str(Path(spec).parent) for spec in record["specs"]]
    except (UserError, KeyError, TypeError):
        return []


def reason_in_words(job: Job) -> str:
    """Why a job waits, as in `waits: behind jobs of higher priority`."""
    reason = job.reason.partition(",")[0].strip()
    if reason == "BeginTime" and job.restarts:
        return "for its turn after a requeue"
    words = REASONS.get(reason)
    if words is None:
        what = {"QOS": "a limit of the QOS", "Ass": "a limit of the account"}.get(reason[:3])
        words = f"{what} ({reason})" if what else reason
    return words.format(id=job.id)


def _current(jobs: list[RunJob]) -> tuple[RunJob, ...]:
    """Of several jobs for the same thing the one that counts: at work, then waiting, then newest."""
    found: dict[tuple[Any, ...], RunJob] = {}
    for job in jobs:
        key = job.rule, job.shard
        if key not in found or _rank(job) > _rank(found[key]):
            found[key] = job
    return tuple(found[key] for key in sorted(found, key=str))


def _rank(job: RunJob) -> tuple[bool, bool, int, str]:
    # A longer id is a newer one.
    return job.is_at_work, job.is_live, len(job.job.id), job.job.id
