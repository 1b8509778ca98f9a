"""Submission: what is retried, what is refused, and how SLURM_CONF reaches the jobs."""

from __future__ import annotations

import logging
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_fastdllm_slurm import (
    Executor,
    submission,
)
from snakemake_executor_plugin_fastdllm_slurm.submission import BIN, keep_slurm_conf
from tests.plugin.rig import Rig, logged


@pytest.mark.parametrize(
    ("account", "asked"), [("lab", "-A lab "), ("a b", "-A a b "), (7, "-A 7 "), (None, "")]
)
def test_an_account_is_passed_on_without_another_question(
    rig: Rig, caplog: pytest.LogCaptureFixture, account: object, asked: str
) -> None:
    rig.slurm.break_down("sacctmgr", "slurmdbd: Connection refused\n")
    rig.job.resources["slurm_account"] = account
    rig.submit()
    (call,) = rig.slurm.calls("sbatch")
    assert asked in call
    assert ("-A" in call) is bool(asked)
    assert rig.slurm.calls("sacctmgr") == []
    assert logged(caplog, "SLURM account") == []


def test_nothing_is_submitted_while_nobody_knows_what_runs(rig: Rig) -> None:
    down = rig.slurm.break_down("squeue", "Unable to contact slurm controller\n")
    rig.executor.run_jobs([rig.job])
    rig.polls()
    assert rig.slurm.calls("sbatch") == []
    rig.slurm.say(("12", "RUNNING"))
    down.unlink()
    rig.wait(lambda: hasattr(rig.job, "registered"))
    assert rig.job.registered == "12"


def test_a_submission_that_may_work_later_is_repeated(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    error = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n"
    down = rig.slurm.break_down("sbatch", error)
    rig.executor.run_jobs([rig.job])
    rig.wait(lambda: len(rig.slurm.calls("sbatch")) >= 3)
    assert rig.scheduler.failed == []
    (told,) = logged(caplog, "sbatch")
    assert told.endswith("send/recv operation'. It is tried again for 10 minutes")
    down.unlink()
    rig.wait(lambda: hasattr(rig.job, "registered"))


# What sbatch of SLURM 22.05 prints: the reason, then the same sentence for all of them.
POLICY = (
    "sbatch: error: {}\nsbatch: error: Batch job submission failed: Job violates accounting/QOS "
    "policy (job submit limit, user's size and/or time limits)\n"
)


@pytest.mark.parametrize(
    "reason",
    [
        *("QOSMaxSubmitJobPerUserLimit", "QOSGrpSubmitJobsLimit", "MaxSubmitJobsPerAccount"),
        *("AssocMaxSubmitJobLimit", "AssocGrpSubmitJobsLimit"),
    ],
)
def test_a_full_queue_is_waited_for_as_long_as_jobs_are_in_it(
    rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    monkeypatch.setattr(submission, "PATIENCE_S", 0.0)
    rig.slurm.say(("12", "RUNNING"), comment="fastdllm_main")
    down = rig.slurm.break_down("sbatch", POLICY.format(reason))
    rig.executor.run_jobs([rig.job])
    rig.wait(lambda: rig.scheduler.failed or len(rig.slurm.calls("sbatch")) >= 3)
    assert rig.scheduler.failed == []
    (told,) = logged(caplog, reason)
    assert told.endswith("It is tried again as soon as the queue takes another job of yours")
    down.unlink()
    rig.wait(lambda: hasattr(rig.job, "registered"))


def test_a_queue_that_takes_no_job_at_all_is_not_waited_for(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "PATIENCE_S", 0.1)
    rig.slurm.say(("12", "COMPLETED"))
    rig.slurm.break_down("sbatch", POLICY.format("QOSMaxSubmitJobPerUserLimit"))
    rig.executor.run_jobs([rig.job])
    rig.wait(lambda: rig.scheduler.failed == [rig.job])


@pytest.mark.parametrize(
    "reason", ["QOSMaxWallDurationPerJobLimit", "QOSMaxMemoryPerJob", "QOSMaxGRESPerUser"]
)
def test_what_the_queue_never_takes_is_not_tried_again(rig: Rig, reason: str) -> None:
    rig.slurm.break_down("sbatch", POLICY.format(reason))
    rig.executor.run_jobs([rig.job])
    rig.wait(lambda: rig.scheduler.failed or len(rig.slurm.calls("sbatch")) > 1)
    assert rig.scheduler.failed == [rig.job]
    assert len(rig.slurm.calls("sbatch")) == 1
    assert reason in rig.job.told[0]


def test_a_refused_submission_is_one_line(rig: Rig) -> None:
    error = "sbatch: error: Invalid qos specification\nsbatch: error: submission failed\n"
    rig.slurm.break_down("sbatch", error)
    rig.executor.run_jobs([rig.job])
    rig.wait(lambda: rig.scheduler.failed == [rig.job])
    (told,) = rig.job.told
    assert "Invalid qos specification sbatch: error: submission failed" in told
    assert "\n" not in told.strip()
    assert "--comment" not in told


def test_a_mistake_in_the_thread_that_submits_is_told(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("never")

    monkeypatch.setattr(submission, "own_jobs", fail)
    rig.executor.run_jobs([rig.job])
    rig.wait(lambda: rig.scheduler.failed == [rig.job])
    assert rig.job.told[0].startswith("submission failed: ZeroDivisionError('never'). ")


@pytest.mark.parametrize("command", ["sbatch", "squeue"])
def test_a_machine_outside_the_cluster_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    for name in {"sbatch", "squeue"} - {command}:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WorkflowError, match=f"^{command}: no such command here; start snakemake"):
        Executor(SimpleNamespace(), logging.getLogger())


def test_slurm_conf_stays_where_the_rest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    monkeypatch.setenv("SLURM_CONF", "/etc/lab/slurm.conf")
    monkeypatch.setenv("PATH", "/bin")
    keep_slurm_conf()
    keep_slurm_conf()
    assert sorted(name for name in os.environ if name.startswith("SLURM_")) == ["SLURM_CONF"]
    assert os.environ["FASTDLLM_SLURM_CONF"] == "/etc/lab/slurm.conf"
    assert os.environ["PATH"] == f"{BIN}{os.pathsep}/bin"


def test_without_slurm_conf_the_path_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_CONF", raising=False)
    monkeypatch.setenv("PATH", "/bin")
    keep_slurm_conf()
    assert os.environ["PATH"] == "/bin"


@pytest.mark.parametrize("given", [{}, {"SLURM_CONF": "/own"}])
def test_the_wrapper_calls_the_real_srun_with_slurm_conf(
    tmp_path: Path, given: dict[str, str]
) -> None:
    (tmp_path / "srun").write_text('#!/bin/sh\necho "$SLURM_CONF|$PATH|$1|$2"\n')
    (tmp_path / "srun").chmod(0o755)
    path = f"{BIN}:{tmp_path}:/usr/bin:/bin"
    done = subprocess.run(
        ["srun", "-n1", "two words"],
        env={"PATH": path, "FASTDLLM_SLURM_CONF": "/lab/slurm.conf", **given},
        capture_output=True,
        text=True,
        check=True,
    )
    conf = given.get("SLURM_CONF", "/lab/slurm.conf")
    assert done.stdout == f"{conf}|{tmp_path}:/usr/bin:/bin|-n1|two words\n"
