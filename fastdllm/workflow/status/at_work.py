"""The processes and SLURM jobs that work on a run, or wait to, in words.

A process is known by its lock. Locks of another node may not be visible; then its job decides
whether it lives, or, without SLURM, the age of its last progress.json.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from fastdllm.cluster.jobs import may_hold
from fastdllm.common.console import duration
from fastdllm.workflow.status.queue import (
    Queue,
    RunJob,
    may_make,
    reason_in_words,
    requeues_in_words,
)
from fastdllm.workflow.status.run_files import Part, RunFiles
from fastdllm.workflow.status.run_progress import progress_in_words, progress_of, stored_progress


@dataclass(frozen=True, slots=True)
class Shards:
    """Numbers of shards of a run by state; the rest are still to be submitted."""

    of: int
    at_work: int = 0
    queued: int = 0
    done: int = 0
    failed: int = 0

    def __str__(self) -> str:
        others = ((self.queued, "queued"), (self.done, "done"), (self.failed, "failed"))
        parts = [f"{count} {word}" for count, word in others if count]
        return ", ".join([f"{self.at_work} of {self.of} shards at work", *parts])


def parts_at_work(files: RunFiles, queue: Queue | None) -> list[Part]:
    """Return the parts of a run whose processes are at work."""
    return [p for p in files.parts if p.is_locked or _lives_elsewhere(p, files, queue)]


def unfinished(jobs: tuple[RunJob, ...], files: RunFiles) -> tuple[RunJob, ...]:
    """Return the jobs without those of finished shards, unless only these are left."""
    done = _indices(part for part in files.shards if part.is_done)
    return tuple(job for job in jobs if job.shard is None or job.shard.index not in done) or jobs


def shards_of(files: RunFiles, alive: Collection[Part], jobs: Sequence[RunJob]) -> Shards | None:
    """Return the states of the shards of a run, None if it is not split."""
    if files.of is None:
        return None
    of_shards = [job for job in jobs if job.shard is not None]
    done = _indices(part for part in files.shards if part.is_done)
    at_work = _indices(alive)
    at_work |= {job.shard.index for job in of_shards if job.shard is not None and job.is_at_work}
    queued = {job.shard.index for job in of_shards if job.shard is not None and job.is_waiting}
    failed = _indices(part for part in files.shards if part.failure is not None)
    return Shards(
        files.of,
        at_work=len(at_work - done),
        queued=len(queued - at_work - done),
        done=len(done),
        failed=len(failed - at_work - queued - done),
    )


def running_in_words(
    files: RunFiles, alive: Collection[Part], jobs: Sequence[RunJob], shards: Shards | None
) -> str:
    """Return how far a run is, and where it runs."""
    progress = progress_of(files, alive)
    parts = [str(shards)] if shards is not None else []
    parts += [progress_in_words(progress)] if progress is not None else []
    if shards is not None and shards.done == shards.of:
        parts.append("its shards are being merged")
    at_work = [job for job in jobs if job.is_at_work]
    if len(at_work) == 1:
        is_put_together = shards is not None and shards.done == shards.of
        phase = "" if alive or is_put_together else _phase(at_work[0], files)
        parts.append(_place(at_work[0], phase))
    elif at_work:
        nodes = sorted({job.job.node for job in at_work})
        parts.append(f"jobs {', '.join(job.job.id for job in at_work)} on {', '.join(nodes)}")
    requeues = [requeues_in_words(job.job, files.attempts()) for job in jobs if job.job.restarts]
    return "; ".join(parts + requeues)


def queued_in_words(files: RunFiles, jobs: Sequence[RunJob], shards: Shards | None) -> str:
    """Return what a run waits for, what is stored of it, and why it failed before."""
    waiting = [job for job in jobs if job.is_waiting]
    packs = [job for job in jobs if job.pack is not None and not job.is_waiting]
    parts = [str(shards)] if shards is not None else []
    if packs:
        job = packs[0].job
        parts.append(f"waits for its turn in pack {packs[0].pack}, job {job.id} on {job.node}")
    else:
        # Of several shards, the first to start.
        first = min(waiting, key=lambda job: (job.start is None, job.start))
        parts.append(reason_in_words(first.job))
    attempts = files.attempts()
    parts += [requeues_in_words(job.job, attempts) for job in waiting if job.job.restarts]
    progress = stored_progress(files)
    parts += [progress_in_words(progress)] if progress else []
    parts += [f"before: {files.failure}"] if files.failure is not None else []
    return "; ".join(parts)


def _indices(parts: Iterable[Part]) -> set[int]:
    """The numbers of the shards among some parts of a run."""
    return {part.shard.index for part in parts if part.shard is not None}


def _lives_elsewhere(part: Part, files: RunFiles, queue: Queue | None) -> bool:
    if not part.is_elsewhere:
        return False
    # squeue shows no jobs of other users, who may share this folder.
    if queue is None or queue.problem or not part.is_mine:
        return part.has_recent_progress
    pid = (part.progress or {}).get("pid")
    attempts = [a for a in files.attempts() if a.shard == part.name and a.pid == pid]
    if not attempts or attempts[-1].slurm_job is None:
        return part.has_recent_progress
    job = queue.live.get(attempts[-1].slurm_job)
    if job is None or attempts[-1].ended is not None or not may_make(job, files.run):
        return False
    return may_hold(job, since=attempts[-1].time)


def _phase(job: RunJob, files: RunFiles) -> str:
    """Return what a running job does without a process at work on the run."""
    this_time = job.job.id, job.job.restarts
    ended = {(a.slurm_job, a.restart) for a in files.attempts() if a.ended is not None}
    return " is ending" if this_time in ended else " is starting"


def _place(job: RunJob, phase: str) -> str:
    where = f"job {job.job.id} on {job.job.node}" if job.job.node else f"job {job.job.id}"
    if job.job.state == "COMPLETING":
        return f"{where} is ending"
    if job.job.state not in ("RUNNING", "CONFIGURING"):
        return f"{where} is {job.job.state.lower()}"
    left_s = job.job.time_left_s
    return f"{where}{phase}" + ("" if left_s is None else f", {duration(left_s)} left of its time")
