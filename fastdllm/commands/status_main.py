"""The main processes of the folder, for `fastdllm status`: which submit the jobs, and their logs.

That of `fastdllm submit` is known by its SLURM job, also while it waits for a node; one that was
started by hand by the file that it holds a lock on.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastdllm.cluster.jobs import MAIN_COMMENT, MAIN_LOGS, live_jobs
from fastdllm.cluster.slurm import WAITING, Job, JobState
from fastdllm.cluster.submission import Submission, read_submission
from fastdllm.workflow.main_process import Life, MainProcess
from fastdllm.workflow.status.endings import EndedJob, ending_of
from fastdllm.workflow.status.queue import Queue, reason_in_words

SELECTING = ("experiment", "task", "config", "limit")


@dataclass(frozen=True, slots=True)
class Main:
    """A main process.

    words: which one, and what is known of it. command: what started it.
    log: None where there is none (yet).
    """

    life: Life
    words: str
    command: str
    log: Path | None = None

    @property
    def is_living(self) -> bool:
        """Whether it works, or waits for a node."""
        return self.life is Life.ALIVE

    @property
    def selection(self) -> Mapping[str, str]:
        """The words of its `--config` that select runs."""
        # Snakemake, which started with them, takes a second to import: status must answer at once.
        words = iter(shlex.split(self.command))
        chosen: dict[str, str] = {}
        is_config = False
        for word in words:
            option, _, value = word.partition("=")
            if word.startswith("-"):
                is_config = option in ("--config", "-C")
                option, _, value = value.partition("=")
            if is_config and option in SELECTING:
                chosen[option] = value
        return chosen


def main_processes_of(
    queue: Queue | None,
    processes: Sequence[tuple[MainProcess, Life]],
    accounts: Callable[[Iterable[str]], Mapping[str, JobState]],
) -> list[Main]:
    """Return the main processes that live, the latest first, or else those that may live.

    Without any, the one that was submitted last, if it has not ended well.

    Args:
        processes: those that have recorded that they work here.
        accounts: asks the accounting database about jobs.
    """
    submission, mains = read_submission(), () if queue is None else queue.mains
    job = live_jobs(mains, Path.cwd()).get(MAIN_COMMENT)
    latest = sorted(processes, key=lambda found: found[0].since, reverse=True)
    living = [p for p, life in latest if life is Life.ALIVE and (not job or p.slurm_job != job.id)]
    by_hand = [Main(Life.ALIVE, p.place, p.command, _there(p.log)) for p in living]
    if job is not None:
        commands = [submission.command] if submission and submission.job == job.id else []
        commands += [process.command for process, _ in latest if process.slurm_job == job.id]
        log = _there(MAIN_LOGS / f"{job.id}.log")
        return [Main(Life.ALIVE, _whereabouts(job), next(iter(commands), ""), log), *by_hand]
    unsure = [
        Main(life, f"{p.place}, if it lives (look: {p.look})", p.command, _there(p.log))
        for p, life in latest
        if life is Life.UNKNOWN
    ]
    if by_hand or unsure or submission is None:
        return by_hand or unsure
    log = _there(submission.log)
    if queue is None or queue.problem or not submission.is_mine:
        words = f"SLURM job {submission.job}, if it lives"
        return [Main(Life.UNKNOWN, words, submission.command, log)]
    ended = _ended(submission, mains, accounts)
    return [] if ended is None else [Main(Life.DEAD, ended, submission.command, log)]


def _whereabouts(job: Job) -> str:
    if job.state in WAITING:
        return f"SLURM job {job.id} ({reason_in_words(job)})"
    return f"SLURM job {job.id} on {job.node}" if job.node else f"SLURM job {job.id}"


def _ended(
    submission: Submission,
    mains: Sequence[Job],
    accounts: Callable[[Iterable[str]], Mapping[str, JobState]],
) -> str | None:
    """Return how a job ended, None if it ended well after all."""
    listed = next((job for job in mains if job.id == submission.job), None)
    known = listed or accounts([submission.job]).get(submission.job)
    state = known.state if known is not None and not known.is_live else ""
    if state == "COMPLETED":
        return None
    is_without_node = listed is not None and not listed.node
    job = EndedJob(submission.job, state, is_without_node=is_without_node, log=submission.log)
    ending = ending_of(job, [])
    return f"SLURM job {submission.job} " + ("ended" if ending is None else str(ending))


def _there(log: Path | str | None) -> Path | None:
    return Path(log) if log is not None and Path(log).exists() else None
