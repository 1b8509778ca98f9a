"""Which SLURM job works on what: the names that Snakemake's SLURM plugin gives to its jobs.

A job's comment holds rule and wildcards, its working directory is the project; both together say
what it makes, whoever submitted it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from fastdllm.cluster.slurm import Job

# `fastdllm-slurm-logdir` of the profiles.
SLURM_LOGS = Path("logs/slurm")
# The job of `fastdllm submit`, which runs the main process.
MAIN_COMMENT = "fastdllm_main"
MAIN_LOGS = SLURM_LOGS / "main"


def comment_of(rule: str, values: Sequence[str] = ()) -> str:
    """The comment of the job of a rule with these values of its wildcards, in their order."""
    return f"rule_{rule}_wildcards_{_joined(values)}" if values else f"rule_{rule}"


def log_of(rule: str, values: Sequence[str], job_id: str) -> Path:
    """Where SLURM's own log of a job is, relative to the project."""
    return SLURM_LOGS / f"rule_{rule}" / _joined(values) / f"{job_id}.log"


def live_jobs(jobs: Iterable[Job], folder: Path) -> dict[str, Job]:
    """The jobs of a project that wait or run, by their comment.

    Where several have the same comment, the one that started counts, else the one submitted first.
    """
    there = os.path.realpath(folder)
    found: dict[str, Job] = {}
    for job in jobs:
        if not job.is_live or not job.comment or os.path.realpath(job.work_dir) != there:
            continue
        other = found.get(job.comment)
        if other is None or _rank(job) < _rank(other):
            found[job.comment] = job
    return found


def _rank(job: Job) -> tuple[bool, int, str]:
    return job.state != "RUNNING", len(job.id), job.id  # shorter ids are older


def _joined(values: Sequence[str]) -> str:
    return "_".join(values).replace("/", "_")
