"""What the executor asks of Snakemake, and an executor with fake SLURM commands."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from snakemake_executor_plugin_fastdllm_slurm import Executor
from tests.support.fake_slurm import FakeSlurm

VALUES = ("demo", "words", "k1")


class Resources(dict[str, Any]):
    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class FakeJob:
    """What the executor asks of a job of Snakemake."""

    name = "eval"
    rule = SimpleNamespace(name="eval")
    threads = 1
    jobid = 1
    is_local = False

    def __init__(self, output: Path) -> None:
        self.resources = Resources(runtime=5, mem_mb=10, slurm_account="lab", slurm_partition="gpu")
        self.wildcards = VALUES
        self.output = [str(output)]
        self.attempt = 1
        self.restart_times = 2
        self.told: list[str] = []

    def is_group(self) -> bool:
        return False

    def register(self, external_jobid: str) -> None:
        self.registered = external_jobid

    def log_info(self) -> None:
        pass

    def log_error(self, msg: str, **kwargs: Any) -> None:
        self.told.append(msg)
        self.logs = kwargs.get("aux_logs")


class FakeScheduler:
    """Notes what became of jobs."""

    def __init__(self) -> None:
        self.finished: list[FakeJob] = []
        self.failed: list[FakeJob] = []
        self.problems: list[Exception] = []
        self.finish_callback = self.finished.append
        self.error_callback = self.failed.append
        self.executor_error_callback = self.problems.append

    def submit_callback(self, job: FakeJob) -> None:
        pass


class Rig:
    """One executor with its SLURM; `wait` waits for what its threads do."""

    def __init__(self, folder: Path, executor: Executor, slurm: FakeSlurm) -> None:
        self.executor, self.slurm = executor, slurm
        self.scheduler: FakeScheduler = executor.workflow.scheduler
        self.job = FakeJob(folder / "project" / "summary.json")

    def wait(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, "nothing happened for 20 s"
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
