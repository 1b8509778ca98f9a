"""An executor with small scripts in the place of SLURM's commands."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from snakemake_executor_plugin_fastdllm_slurm import (
    Executor,
    ExecutorSettings,
    common_settings,
    submission,
)
from snakemake_executor_plugin_fastdllm_slurm import executor as looking
from tests.plugin.rig import FakeJob, FakeScheduler, Rig
from tests.support.fakes import FakeSlurm
from tests.support.small_project import project  # noqa: F401


@pytest.fixture
def rig(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[Rig]:
    folder = tmp_path / "project"
    (folder / ".snakemake").mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SLURM_CONF", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(looking, "END_POLL_S", 0.01)
    monkeypatch.setattr(looking, "LEAST_POLL_S", 0.0)
    monkeypatch.setattr(submission, "RETRY_S", 0.02)
    monkeypatch.setattr(submission, "SNAPSHOT_S", 0.0)
    monkeypatch.setattr("fastdllm.cluster.jobs.SECOND_LOOK_S", 0.05)
    monkeypatch.setattr(Executor, "format_job_exec", lambda *_: "true")
    slurm = FakeSlurm(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    caplog.set_level(logging.INFO)

    async def incomplete(job: FakeJob) -> list[str]:
        return [] if (tmp_path / "is_complete").exists() else job.output

    workflow = SimpleNamespace(
        dag=None,
        scheduler=FakeScheduler(),
        main_snakefile="Snakefile",
        workdir_init=str(folder),
        persistence=SimpleNamespace(deactivate_cache=lambda: None, incomplete=incomplete),
        executor_plugin=SimpleNamespace(common_settings=common_settings),
        executor_settings=ExecutorSettings(logdir=Path("logs/slurm"), keep_successful_logs=True),
        storage_settings=SimpleNamespace(shared_fs_usage=()),
        remote_execution_settings=SimpleNamespace(
            max_status_checks_per_second=100,
            seconds_between_status_checks=0.02,
            jobname="job.{jobid}",
            jobscript=None,
            immediate_submit=False,
        ),
    )
    executor = Executor(workflow, logging.getLogger("executor"))
    yield Rig(tmp_path, executor, slurm)
    if executor.wait:
        executor.shutdown()
