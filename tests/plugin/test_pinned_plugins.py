"""The defects of the pinned plugins that ours is there for; a test that fails says what can go."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake.cli import get_argument_parser
from snakemake_executor_plugin_slurm import Executor as SlurmExecutor
from snakemake_executor_plugin_slurm.utils import delete_slurm_environment
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from tests.plugin.rig import FakeJob, FakeScheduler, Rig


def test_both_plugins_can_be_chosen() -> None:
    assert "{fastdllm-slurm,slurm," in get_argument_parser().format_help()


def test_the_pinned_plugin_still_drops_slurm_conf_in_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", "/etc/lab/slurm.conf")
    delete_slurm_environment()
    assert "SLURM_CONF" not in os.environ, (
        "the slurm plugin keeps SLURM_CONF now: take it out of keep_slurm_conf"
    )


def test_the_pinned_jobstep_plugin_still_drops_slurm_conf_for_srun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from snakemake_executor_plugin_slurm_jobstep import Executor as JobStep

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_CONF", "/etc/lab/slurm.conf")
    (tmp_path / "srun").write_text('#!/bin/sh\necho "$SLURM_CONF" > conf\n')
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(JobStep, "format_job_exec", lambda *_: "true")
    workflow = SimpleNamespace(
        dag=None,
        scheduler=FakeScheduler(),
        main_snakefile="Snakefile",
        executor_settings=SimpleNamespace(array_execs="", pass_command_as_script=False),
    )
    job = FakeJob(tmp_path / "output")
    job.register = lambda **_: None  # type: ignore[method-assign]
    JobStep(workflow, logging.getLogger()).run_job(job)
    assert (tmp_path / "conf").read_text() == "\n", (
        "the slurm-jobstep plugin keeps SLURM_CONF now: remove fastdllm/cluster/bin/srun"
    )


@pytest.mark.parametrize("state", ["CANCELLED by 1000", "PREEMPTED"])
def test_the_pinned_plugin_still_waits_for_ever(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    async def status(*_: object) -> tuple[dict[str, str], float]:
        return {"77": state}, 0.01

    monkeypatch.setattr("snakemake_executor_plugin_slurm.query_job_status", status)
    rig.executor._preemption_warning = True
    info = SubmittedJobInfo(rig.job, external_jobid="77", aux={"slurm_logfile": Path("77.log")})

    async def look() -> list[SubmittedJobInfo]:
        return [job async for job in SlurmExecutor.check_active_jobs(rig.executor, [info])]

    assert asyncio.run(look()) == [info], (
        f"the slurm plugin ends a job in state {state} now; once it also adopts jobs, use it alone"
    )
