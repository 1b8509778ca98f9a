"""What our plugin leans on in the pinned ones, and their defects, which it is there for.

A test that fails says what to look at, or what can go.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pkgutil
import tomllib
from importlib.metadata import requires
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from snakemake.cli import get_argument_parser
from snakemake.persistence.file import FilePersistence
from snakemake_executor_plugin_slurm import Executor as SlurmExecutor
from snakemake_executor_plugin_slurm.utils import delete_slurm_environment
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from tests.plugin.rig import FakeJob, FakeScheduler, Rig
from tests.support.small_project import ROOT

# Packages whose private names are used; those of lm-eval are in tests/tasks/test_pinned_lm_eval.py.
LEANED_ON = {
    "lm-eval",
    "snakemake",
    "snakemake-executor-plugin-slurm",
    "snakemake-executor-plugin-slurm-jobstep",
    "snakemake-interface-executor-plugins",
}
# Names of the SLURM plugin's executor, and of what it inherits, with the place that uses each.
OF_THE_EXECUTOR = {
    "_failed_nodes": "Executor._end adds nodes that failed",
    "_job_submission_executor": "Executor._submit_again and _stop_submitting",
    "_report_job_error_threadsafe": "SubmittingExecutor overrides it, to learn why sbatch refused",
    "get_account_arg": "SubmittingExecutor overrides it, so that sacctmgr is not asked",
    "run_job": "SubmittingExecutor.run_job calls it in the plugin's threads",
    "run_uuid": "Executor.cancel_jobs cancels by this name of the call's jobs",
    "slurm_logdir": "SubmittingExecutor._adopt names the log of an adopted job",
    "sleep": "Executor overrides it, so that no three minutes pass between two looks",
    "tmpdir": "Executor.shutdown makes it again for jobs that are left running",
    "wait": "Executor.sleep ends with it",
}
# Names of Snakemake without documentation, likewise.
OF_SNAKEMAKE = {
    "snakemake.cli:get_argument_parser": "Targets, CommandLine and snakemake_log read arguments",
    "snakemake.cli:get_profile_dir": "CommandLine.read finds the folders of profiles",
    "snakemake.logging:logger": "rules/common.smk leaves out needless messages",
    "snakemake.jobs:Job.attempt": "Executor._end uses up the attempts of a job",
    "snakemake.jobs:Job.restart_times": "Executor._end uses up the attempts of a job",
    "snakemake.persistence.file:FilePersistence.deactivate_cache": "Executor._is_made",
    "snakemake.persistence.file:FilePersistence.incomplete": "Executor._is_made",
}


def test_what_is_leaned_on_is_pinned_in_both_places_alike() -> None:
    lines = (ROOT / "constraints.txt").read_text().replace("_", "-").splitlines()
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    pinned = [line for line in asked if "==" in line]
    assert {line.partition("==")[0] for line in pinned} == LEANED_ON
    assert set(pinned) <= set(lines), "pyproject.toml and constraints.txt differ"


def test_all_that_is_pinned_is_installed_by_make_setup() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = project["optional-dependencies"]
    open_, met = [*project["dependencies"], *chain(*asked.values())], set()
    while open_:
        wanted = Requirement(open_.pop())
        if (one := (canonicalize_name(wanted.name), frozenset(wanted.extras))) in met:
            continue
        met.add(one)
        extras = [{"extra": extra} for extra in ("", *wanted.extras)]
        for text in requires(wanted.name) or ():
            marker = Requirement(text).marker
            if marker is None or any(map(marker.evaluate, extras)):
                open_.append(text)
    lines = [x for x in (ROOT / "constraints.txt").read_text().splitlines() if "==" in x]
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines}
    assert pinned - {name for name, _ in met} == set()


@pytest.mark.parametrize("name", OF_THE_EXECUTOR)
def test_the_slurm_plugin_has_a_name_that_ours_uses(rig: Rig, name: str) -> None:
    is_there = hasattr(SlurmExecutor, name) or name in vars(rig.executor)
    assert is_there, f"the slurm plugin has no {name} any more: {OF_THE_EXECUTOR[name]}"


@pytest.mark.parametrize("name", OF_SNAKEMAKE)
def test_snakemake_has_a_name_that_we_use(name: str) -> None:
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        pytest.fail(f"snakemake has no {name} any more: {OF_SNAKEMAKE[name]}")


def test_snakemake_locks_files_as_the_main_process_reads_them(tmp_path: Path) -> None:
    persistence = object.__new__(FilePersistence)
    persistence._lockdir, persistence._lockfile = str(tmp_path), {}
    persistence._write_locks("output", ["results/a/summary.json"])
    (lock,) = tmp_path.glob("*.output.lock")
    assert lock.read_text().splitlines() == ["results/a/summary.json"], (
        "snakemake writes its locks differently: look at held_outputs in main_process.py"
    )
    default = get_argument_parser().parse_args([]).persistence_backend
    assert str(getattr(default, "name", default)).lower() == "file", (
        "snakemake keeps its locks elsewhere: look at LOCKS in main_process.py"
    )


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
