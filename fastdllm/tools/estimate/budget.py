"""What a set of runs costs in all: jobs, hours, GPU-hours, and the time until the last one ends.

Adds up the estimates of single runs by how they are split into jobs. Unknown runs are counted and
left out of every sum, which is then a lower bound. Arithmetic only.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastdllm.tools.estimate.estimates import Estimate
from fastdllm.workflow.splitting import JobSplit

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class BudgetRow:
    """The runs of one experiment on one task; sums are of those that are known.

    jobs: whole jobs, of which a pack of several experiments counts for each.
    seconds_per_item: mean over all items that are left; longest_job_s: of a job with such a run.
    sources: where the speeds come from, and of how many runs each.
    batch_sizes: those that were measured in place of the runs' own.
    """

    experiment: str
    task_folder: str
    runs: int
    unknown: int
    jobs: int
    items_left: int | None
    seconds_per_item: float | None
    longest_job_s: float | None
    gpu_s: float | None
    sources: Mapping[str, int]
    batch_sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EstimatedJob:
    """One job: its runs, and its seconds on a GPU; None if one of its runs is unknown."""

    names: tuple[str, ...]
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Budget:
    """Rows in the order of the runs, and all jobs."""

    rows: tuple[BudgetRow, ...]
    jobs: tuple[EstimatedJob, ...]
    estimates: tuple[Estimate, ...]

    @property
    def unknown(self) -> list[Estimate]:
        """The runs without an estimate."""
        return [estimate for estimate in self.estimates if estimate.decoding_s is None]

    @property
    def gpu_s(self) -> float | None:
        """Seconds of all known jobs; None if there is none."""
        known_s = [job.seconds for job in self.jobs if job.seconds is not None]
        return sum(known_s) if known_s else None

    def wall_clock_s(self, jobs_at_once: int) -> float | None:
        """Seconds until the last job ends, the longest first, without waiting in a queue."""
        known_s = [job.seconds for job in self.jobs if job.seconds is not None]
        if not known_s:
            return None
        free_at = [0.0] * min(jobs_at_once, len(known_s))
        for seconds in sorted(known_s, reverse=True):
            heapq.heapreplace(free_at, free_at[0] + seconds)
        return max(free_at)


def budget_of(estimates: Sequence[Estimate], split: JobSplit) -> Budget:
    """Add up the estimates of runs that are split into jobs as `split` says."""
    jobs = _jobs(estimates, split)
    by_row: dict[tuple[str, str], list[Estimate]] = {}
    for estimate in estimates:
        key = (estimate.run.experiment, estimate.run.task_folder)
        by_row.setdefault(key, []).append(estimate)
    rows = tuple(_row(members, jobs) for members in by_row.values())
    return Budget(rows, tuple(jobs), tuple(estimates))


def _jobs(estimates: Sequence[Estimate], split: JobSplit) -> list[EstimatedJob]:
    by_name = {estimate.run.name: estimate for estimate in estimates}
    packed = {
        run.name: pack
        for pack, members in split.packs.items()
        for run in members
        if run.name in by_name
    }
    jobs = [
        _job([by_name[name] for name in packed if packed[name] == pack])
        for pack in dict.fromkeys(packed.values())
    ]
    for name, estimate in by_name.items():
        if name not in packed:
            shards = split.shards.get(name, 1)
            jobs += [_job([estimate], share=1 / shards)] * shards
    return jobs


def _job(members: Sequence[Estimate], share: float = 1.0) -> EstimatedJob:
    names = tuple(member.run.name for member in members)
    shares_s = [
        None if member.decoding_s is None else member.decoding_s * share for member in members
    ]
    known_s = [seconds for seconds in shares_s if seconds is not None]
    if len(known_s) < len(members):
        return EstimatedJob(names, None)
    once_s = max(member.startup_s or 0.0 for member in members)
    once_s += max(member.outside_s or 0.0 for member in members)
    return EstimatedJob(names, once_s + sum(known_s))


def _row(members: Sequence[Estimate], jobs: Sequence[EstimatedJob]) -> BudgetRow:
    first = members[0].run
    names = {estimate.run.name for estimate in members}
    jobs_of_row = [job for job in jobs if names & set(job.names)]
    estimated = [estimate for estimate in members if estimate.decoding_s is not None]
    items = [estimate.items_left for estimate in members]
    counted = [number for number in items if number is not None]
    decoding_s = sum(estimate.decoding_s or 0.0 for estimate in estimated)
    to_decode = sum(estimate.items_left or 0 for estimate in estimated)
    # A job that several rows share counts for each by the number of its runs there.
    gpu_s = [
        job.seconds * len(names & set(job.names)) / len(job.names)
        for job in jobs_of_row
        if job.seconds is not None
    ]
    sizes = {e.speed.batch_size for e in members if e.speed and e.speed.batch_size is not None}
    return BudgetRow(
        experiment=first.experiment,
        task_folder=first.task_folder,
        runs=len(members),
        unknown=len(members) - len(estimated),
        jobs=len(jobs_of_row),
        items_left=sum(counted) if len(counted) == len(items) else None,
        seconds_per_item=decoding_s / to_decode if to_decode else None,
        longest_job_s=max((j.seconds for j in jobs_of_row if j.seconds is not None), default=None),
        gpu_s=sum(gpu_s) if gpu_s else None,
        sources=dict(Counter(estimate.basis.value for estimate in members)),
        batch_sizes=tuple(sorted(size for size in sizes if size is not None)),
    )
