"""The SLURM jobs of a project: which one works on what, and how each one ended.

A job's comment holds the rule and its wildcards, as Snakemake's SLURM plugin writes them, and its
working directory is the project; together they say what it makes, whoever submitted it. An id says
nothing alone, as a controller that lost its state gives ids anew.

squeue gives the state of a job as long as it lists it, then sacct. Two states are believed only at
the second look, as SLURM passes through them on the way back into the queue. A job that neither
knows any more has ended; the caller has to find out how. No job is followed forever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from fastdllm.cluster.slurm import WAITING, Job, JobState, SlurmError, accounted
from fastdllm.cluster.states import END_STATES, waiting_reason
from fastdllm.common.paths import LOGS

# `fastdllm-slurm-logdir` of the profiles.
SLURM_LOGS = LOGS / "slurm"
# The job of `fastdllm submit`, which runs the main process.
MAIN_COMMENT = "fastdllm_main"
MAIN_LOGS = SLURM_LOGS / "main"

# A job starts before its processes, by clocks that differ by less than this.
CLOCKS_S = 120.0
# States of a job that SLURM may put back into the queue a moment later.
MAYBE_REQUEUED = frozenset({"PREEMPTED", "NODE_FAIL"})
# Time between two looks at such a state; SLURM does both steps within the same second.
SECOND_LOOK_S = 5.0
# The accounting database learns of a job's end some seconds later than squeue.
UNKNOWN_PATIENCE_S = 60.0
# Cleaning up after a job takes seconds; a process that cannot be killed keeps it there for hours.
COMPLETING_PATIENCE_S = 600.0

# The state of a job that neither squeue nor sacct knows.
GONE = "GONE"
_OTHER_ENDS = {
    "FAILED": "failed",
    "COMPLETING": "still ending after 10 minutes, so it is given up",
    GONE: "no longer known to SLURM",
}


def comment_of(rule: str, values: Sequence[str] = ()) -> str:
    """Return the comment of the job of a rule with these values of its wildcards, in order."""
    joined = "_".join(values).replace("/", "_")
    return f"rule_{rule}_wildcards_{joined}" if values else f"rule_{rule}"


def live_jobs(jobs: Iterable[Job], folder: Path) -> dict[str, Job]:
    """Return the jobs of a project that wait or run, by their comment.

    Where several have the same comment, the one that started counts, else the one submitted first.
    """
    live: dict[str, Job] = {}
    for job in jobs:
        if not job.is_live or not job.comment or not job.is_in(folder):
            continue
        other = live.get(job.comment)
        if other is None or _rank(job) < _rank(other):
            live[job.comment] = job
    return live


def may_hold(job: Job, *, since: str) -> bool:
    """Whether a process that recorded the id of this job may be at work in it.

    Args:
        since: when the process began, in ISO 8601 with a time zone; a later job has the id anew.
    """
    if not job.is_live or job.state in WAITING:
        return False
    try:
        since_s = datetime.fromisoformat(since).timestamp()
    except ValueError:
        return True
    return job.start is None or datetime.fromisoformat(job.start).timestamp() <= since_s + CLOCKS_S


def _rank(job: Job) -> tuple[bool, int, str]:
    return job.state != "RUNNING", len(job.id), job.id  # shorter ids are older


def end_in_words(job: JobState) -> str:
    """Return how a job ended."""
    end = END_STATES.get(job.state)
    words = end.words if end else _OTHER_ENDS.get(job.state, f"ended as {job.state}")
    return f"{words} (exit code {job.exit_code})" if job.exit_code else words


@dataclass
class _Memory:
    """Since when a job has been in its state, and what was already reported about it."""

    state: str
    since_s: float
    restarts: int = 0
    reported: set[str] = field(default_factory=set)


class JobFollower:
    """Watches jobs from poll to poll.

    Args:
        accounts: asks the accounting database; a parameter for tests.
    """

    def __init__(
        self, accounts: Callable[[Iterable[str]], Mapping[str, JobState]] = accounted
    ) -> None:
        self._accounts = accounts
        self._memories: dict[str, _Memory] = {}

    def adopt(self, job: Job, now_s: float) -> None:
        """Follow a job of an earlier call; its requeues until now are not reported."""
        self._memories[job.id] = _Memory(job.state, now_s, job.restarts)

    def ended(self, ids: Iterable[str], queue: Iterable[Job], now_s: float) -> dict[str, JobState]:
        """Return the last state of each of these jobs that has ended.

        Args:
            queue: the present answer of squeue.
            now_s: a clock that never goes back.
        """
        in_queue = {job.id: job for job in queue}
        ends: dict[str, JobState] = {}
        ages_s: dict[str, float] = {}
        for job_id in ids:
            job = in_queue.get(job_id)
            state = job.state if job else GONE
            age_s = self._age_s(job_id, state, now_s)
            if state == GONE or (state == "COMPLETING" and age_s >= COMPLETING_PATIENCE_S):
                ages_s[job_id] = age_s
            elif job is None or job.is_live:
                continue
            elif state not in MAYBE_REQUEUED or age_s >= SECOND_LOOK_S:
                ends[job_id] = JobState(job_id, state)
        ends |= self._from_accounts(ages_s, in_queue)
        for job_id in ends:
            del self._memories[job_id]
        return ends

    def notices(self, ids: Iterable[str], queue: Iterable[Job]) -> list[str]:
        """Return the news about jobs that have not ended, each line once."""
        wanted = set(ids)
        lines = []
        for job in queue:
            memory = self._memories.get(job.id)
            if job.id not in wanted or memory is None:
                continue
            if job.restarts > memory.restarts:
                memory.restarts = job.restarts
                lines.append(f"SLURM put job {job.id} back into the queue; it resumes from there")
            reason = waiting_reason(job.state, job.reason)
            if reason.needs_person and reason.words not in memory.reported:
                memory.reported.add(reason.words)
                lines.append(
                    f"SLURM job {job.id} does not start: {reason.words}; "
                    f"`scontrol show job {job.id}` shows details, `scontrol release {job.id}` "
                    f"releases a held job, `scancel {job.id}` cancels it"
                )
        return lines

    def _age_s(self, job_id: str, state: str, now_s: float) -> float:
        """Return for how long the job has been seen in this state."""
        memory = self._memories.setdefault(job_id, _Memory(state, now_s))
        if memory.state != state:
            memory.state, memory.since_s = state, now_s
        return now_s - memory.since_s

    def _from_accounts(
        self, ages_s: Mapping[str, float], in_queue: Mapping[str, Job]
    ) -> dict[str, JobState]:
        if not ages_s:
            return {}
        try:
            accounts = self._accounts(ages_s)
        except SlurmError:
            accounts = {}  # the patience below still counts
        ends = {}
        for job_id, age_s in ages_s.items():
            account = accounts.get(job_id)
            if account is not None and not account.is_live:
                ends[job_id] = account
            elif job_id in in_queue:
                ends[job_id] = JobState(job_id, "COMPLETING")
            elif age_s >= UNKNOWN_PATIENCE_S:
                ends[job_id] = JobState(job_id, GONE)
        return ends
