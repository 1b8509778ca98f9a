"""From what SLURM says about a job to what became of it, in words; no job is followed for ever.

Knows SLURM's states, not Snakemake. squeue decides as long as it knows a job, afterwards sacct.
Two states are believed only at the second look, as SLURM passes through them on the way back into
the queue. A job that nobody knows any more has ended; how, the caller has to find out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from fastdllm.cluster.reasons import reason_of
from fastdllm.cluster.slurm import Accounted, Job, SlurmError, accounted

# States of a job that is put back into the queue a moment later, if at all.
MAYBE_REQUEUED = frozenset({"PREEMPTED", "NODE_FAIL"})
# Between two looks at such a state; SLURM does both steps within the same second.
SECOND_LOOK_S = 5.0
# The accounting database hears of a job's end some seconds later than squeue.
UNKNOWN_PATIENCE_S = 60.0
# Cleaning up after a job takes seconds; a process that cannot be killed keeps it there for hours.
COMPLETING_PATIENCE_S = 600.0

GONE = "GONE"
_WORDS = {
    "COMPLETED": "finished",
    "CANCELLED": "was cancelled",
    "PREEMPTED": "was preempted and not put back into the queue",
    "TIMEOUT": "hit its time limit",
    "OUT_OF_MEMORY": "used more memory than it asked for (of the node, not of the GPU)",
    "NODE_FAIL": "lost its node and was not put back into the queue",
    "BOOT_FAIL": "got a node that did not boot",
    "DEADLINE": "could not end before its deadline",
    "FAILED": "failed",
    "COMPLETING": "has been ending for 10 minutes and is given up",
    GONE: "is no longer known to SLURM",
}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended. state: SLURM's word for it, or GONE where nobody knows."""

    job_id: str
    state: str
    exit_code: int | None = None

    @property
    def words(self) -> str:
        """What happened to the job, to be read after its name."""
        words = _WORDS.get(self.state, f"ended as {self.state}")
        return f"{words} (exit code {self.exit_code})" if self.exit_code else words


@dataclass
class _Memory:
    """Since when a job has been in a state that is not believed at once, and what was told."""

    state: str
    since_s: float
    restarts: int = 0
    told: set[str] = field(default_factory=set)


class Following:
    """Watches jobs from poll to poll.

    Args:
        accounts: asks the accounting database; for tests.
    """

    def __init__(
        self, accounts: Callable[[Iterable[str]], Mapping[str, Accounted]] = accounted
    ) -> None:
        self._accounts = accounts
        self._memories: dict[str, _Memory] = {}

    def adopt(self, job: Job, now_s: float) -> None:
        """Follow a job of somebody else; what it went through before is no news."""
        self._memories[job.id] = _Memory(job.state, now_s, job.restarts)

    def endings(self, ids: Iterable[str], queue: Iterable[Job], now_s: float) -> dict[str, Ending]:
        """The jobs among `ids` that have ended.

        Args:
            queue: what squeue says just now.
            now_s: a clock that never goes back.
        """
        known = {job.id: job for job in queue}
        ended: dict[str, Ending] = {}
        asked: dict[str, float] = {}
        for job_id in ids:
            job = known.get(job_id)
            state = job.state if job else GONE
            age_s = self._age_s(job_id, state, now_s)
            if state == GONE or (state == "COMPLETING" and age_s >= COMPLETING_PATIENCE_S):
                asked[job_id] = age_s
            elif job is None or job.is_live:
                continue
            elif state not in MAYBE_REQUEUED or age_s >= SECOND_LOOK_S:
                ended[job_id] = Ending(job_id, state)
        ended |= self._from_accounts(asked, known)
        for job_id in ended:
            del self._memories[job_id]
        return ended

    def notices(self, ids: Iterable[str], queue: Iterable[Job]) -> list[str]:
        """What a person wants to know of jobs that have not ended; each is told once."""
        wanted = set(ids)
        lines = []
        for job in queue:
            memory = self._memories.get(job.id)
            if job.id not in wanted or memory is None:
                continue
            if job.restarts > memory.restarts:
                memory.restarts = job.restarts
                lines.append(f"SLURM put job {job.id} back into the queue; it goes on there")
            reason = reason_of(job.state, job.reason)
            if reason.needs_person and reason.words not in memory.told:
                memory.told.add(reason.words)
                lines.append(
                    f"SLURM job {job.id} does not start: {reason.words}; "
                    f"`scontrol show job {job.id}` tells more, `scontrol release {job.id}` lets a "
                    f"held one go, `scancel {job.id}` ends it"
                )
        return lines

    def _age_s(self, job_id: str, state: str, now_s: float) -> float:
        """For how long the job has been seen in this state."""
        memory = self._memories.setdefault(job_id, _Memory(state, now_s))
        if memory.state != state:
            memory.state, memory.since_s = state, now_s
        return now_s - memory.since_s

    def _from_accounts(
        self, ages_s: Mapping[str, float], known: Mapping[str, Job]
    ) -> dict[str, Ending]:
        if not ages_s:
            return {}
        try:
            found = self._accounts(ages_s)
        except SlurmError:
            found = {}  # the patience below counts on
        ended = {}
        for job_id, age_s in ages_s.items():
            account = found.get(job_id)
            if account is not None and not account.is_live:
                ended[job_id] = Ending(job_id, account.state, account.exit_code)
            elif job_id in known:
                ended[job_id] = Ending(job_id, "COMPLETING")
            elif age_s >= UNKNOWN_PATIENCE_S:
                ended[job_id] = Ending(job_id, GONE)
        return ended
