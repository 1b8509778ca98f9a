"""The options of the executor: which of the SLURM plugin's there are, and what those do."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from snakemake.cli import get_argument_parser
from snakemake_executor_plugin_slurm import ExecutorSettings as SlurmSettings

from snakemake_executor_plugin_fastdllm_slurm import REFUSED, ExecutorSettings
from tests.plugin.rig import Rig
from tests.support.small_project import SmallProject, edit

OF_SLURM = {option.name: option for option in fields(SlurmSettings)}
OFFERED = {option.name: option for option in fields(ExecutorSettings)}
WITHOUT_EFFECT = {
    "array_limit",
    "disable_memory_fudge",
    "init_seconds_before_status_checks",
    "no_account",
    "status_attempts",
    "status_command",
}


def test_each_option_of_the_slurm_plugin_is_decided_on() -> None:
    assert OF_SLURM.keys() == OFFERED.keys() | WITHOUT_EFFECT, (
        "the slurm plugin has other options now: decide on each in ExecutorSettings"
    )
    for name, option in OFFERED.items():
        there = OF_SLURM[name]
        assert option.type == there.type, name
        assert name in REFUSED or option.default == there.default, name
    assert all(hasattr(ExecutorSettings(), name) for name in OF_SLURM), "the plugin reads them"


def test_an_option_without_effect_is_not_offered() -> None:
    options = get_argument_parser().format_help().split()
    words = {word.strip("[]") for word in options if "--fastdllm-slurm-" in word}
    assert words == {f"--fastdllm-slurm-{name.replace('_', '-')}" for name in OFFERED}


@pytest.mark.slow
@pytest.mark.parametrize("place", ["command", "profile"])
@pytest.mark.parametrize(("name", "instead"), [("array-jobs", "group: n"), ("qos", "--config qos")])
def test_an_option_that_breaks_a_grid_is_refused_in_one_line(
    project: SmallProject, place: str, name: str, instead: str
) -> None:
    option = f"fastdllm-slurm-{name}"
    if place == "profile":
        edit("profiles/pace/config.yaml", "jobs: 49\n", f"jobs: 49\n{option}: all\n")
    typed = [f"--{option}=all"] if place == "command" else []
    for dry in ([], ["-n"]):
        done = project.snakemake("--profile", "profiles/pace", *typed, *dry)
        (line,) = [line for line in done.stderr.splitlines() if line[:6] != "Using "]
        assert done.returncode == 2
        assert line.startswith(f"fastdllm: --{option}: not possible here: ") and instead in line
        assert not Path("results").exists()


def test_who_forbids_requeueing_overrides_the_profile() -> None:
    settings = ExecutorSettings(requeue=True, no_requeue=True)
    assert (settings.requeue, settings.no_requeue) == (False, True)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"reservation": "course"}, "--reservation=course"),
        ({"requeue": True}, "--requeue"),
        ({"no_requeue": True}, "--no-requeue"),
        ({"pass_command_as_script": True}, "/dev/stdin"),
    ],
)
def test_what_an_option_asks_of_sbatch(rig: Rig, values: dict[str, object], said: str) -> None:
    settings = rig.executor.workflow.executor_settings
    for name, value in values.items():
        setattr(settings, name, value)
    rig.submit()
    (call,) = rig.slurm.calls("sbatch")
    assert f" {said}" in call


def test_a_file_of_partitions_serves_jobs_that_name_none(rig: Rig, tmp_path: Path) -> None:
    from snakemake_executor_plugin_slurm.partitions import read_partition_file

    limits = {"partitions": {"short": {"max_runtime": 10}, "long": {"max_runtime": 6000}}}
    (tmp_path / "partitions.yaml").write_text(yaml.safe_dump(limits))
    rig.executor._partitions = read_partition_file(tmp_path / "partitions.yaml")
    del rig.job.resources["slurm_partition"]
    rig.job.resources["runtime"] = 60
    rig.submit()
    (call,) = rig.slurm.calls("sbatch")
    assert " -p long " in call


def test_the_report_of_efficiency_is_about_the_jobs_of_the_call(rig: Rig, tmp_path: Path) -> None:
    settings = rig.executor.workflow.executor_settings
    settings.efficiency_report, settings.efficiency_report_path = True, tmp_path / "report"
    rig.submit()
    rig.slurm.say(("77", "COMPLETED"))
    rig.wait(lambda: rig.scheduler.finished == [rig.job])
    sacct = tmp_path / "bin/sacct"
    row = "77|fastdllm|rule_eval|00:01:40|00:00:50|1|1|100M|1G"
    sacct.write_text(f"#!/bin/sh\necho '{row}'\necho '77.0|x|||00:00:50|1|1|100M|'\n")
    rig.executor.shutdown()
    (report,) = (tmp_path / "report").glob("*.csv")
    assert rig.executor.run_uuid in report.name and "rule_eval" in report.read_text()
