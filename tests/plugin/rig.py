"""What the executor asks of Snakemake, and an executor with fake SLURM commands."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from snakemake_executor_plugin_fastdllm_slurm import Executor
from tests.support.fakes import FakeJob, FakeScheduler, FakeSlurm
from tests.support.run_project import PATIENCE_S


class Rig:
    """One executor with its SLURM; `wait` waits for what its threads do."""

    def __init__(self, folder: Path, executor: Executor, slurm: FakeSlurm) -> None:
        self.executor, self.slurm = executor, slurm
        self.scheduler: FakeScheduler = executor.workflow.scheduler
        self.job = FakeJob(folder / "project" / "summary.json")

    def wait(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, "nothing happened"
            assert not self.scheduler.problems, self.scheduler.problems
            time.sleep(0.005)

    def polls(self) -> None:
        """Wait until the queue was looked at anew, and what it said was dealt with."""
        seen = len(self.slurm.calls("squeue"))
        self.wait(lambda: len(self.slurm.calls("squeue")) >= seen + 3)

    def submit(self) -> None:
        self.executor.run_jobs([self.job])
        self.wait(lambda: hasattr(self.job, "registered"))


def logged(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    return [record.message for record in caplog.records if text in record.message]
