"""SLURM for tests without SLURM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastdllm.cluster.jobs import SLURM_LOGS


def log_of(rule: str, values: Sequence[str], job_id: str) -> Path:
    """The path of SLURM's own log of a job, relative to the project."""
    return SLURM_LOGS / f"rule_{rule}" / "_".join(values).replace("/", "_") / f"{job_id}.log"
