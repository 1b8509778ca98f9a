"""The executor plugin: its own code with SLURM's commands as small scripts, and the defects of the
pinned plugins that it is there for.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake_executor_plugin_slurm import Executor as SlurmExecutor
from snakemake_executor_plugin_slurm.utils import delete_slurm_environment
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from fastdllm.cluster.jobs import JobEnd
from snakemake_executor_plugin_fastdllm_slurm import (
    Executor,
    ExecutorSettings,
    common_settings,
    submission,
)
from snakemake_executor_plugin_fastdllm_slurm import executor as looking
from snakemake_executor_plugin_fastdllm_slurm.executor import was_only_stopped
from snakemake_executor_plugin_fastdllm_slurm.submission import BIN, keep_slurm_conf

ROOT = Path(__file__).parents[2]
VALUES = ("demo", "words", "k1")
COMMENT = "rule_eval_wildcards_demo_words_k1"


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


class Scheduler:
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


class Cluster:
    """Scripts in the place of SLURM's commands; the files `queue` and `down` say what they do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        self.say()
        fail = f"if cat {folder}/$0.down >&2 2>/dev/null; then exit 1; fi"
        note = f'printf "%s\\n" "$*" >> {folder}/$0.calls'
        for name, text in {
            "squeue": f"cat {folder}/queue",
            "sbatch": "echo 77",
            "scancel": "",
            "sacctmgr": "echo lab",
            "sacct": "",
            "scontrol": "",
            "sinfo": "",
        }.items():
            script = folder / "bin" / name
            fail_here, note_here = (line.replace("$0", name) for line in (fail, note))
            script.write_text(f"#!/bin/sh\n{note_here}\n{fail_here}\n{text}\n")
            script.chmod(0o755)

    def say(self, *jobs: tuple[str, ...], comment: str = COMMENT) -> None:
        """What squeue prints: ids, states, and names where they matter."""
        place = self.folder / "project"
        text = "".join(
            f"{i}\x1f{s}\x1fNone\x1fN/A\x1f\x1f1:00\x1f0\x1f{''.join(name) or 'x'}\x1f"
            f"{comment}\x1f{place}\x1e\n"
            for i, s, *name in jobs
        )
        (self.folder / "queue.new").write_text(text)
        (self.folder / "queue.new").rename(self.folder / "queue")

    def break_down(self, name: str, error: str) -> Path:
        path = self.folder / f"{name}.down"
        path.write_text(error)
        return path

    def calls(self, name: str) -> list[str]:
        path = self.folder / f"{name}.calls"
        return path.read_text().splitlines() if path.exists() else []


class Lab:
    """One executor with its cluster; `wait` waits for what its threads do."""

    def __init__(self, folder: Path, executor: Executor, cluster: Cluster) -> None:
        self.executor, self.cluster = executor, cluster
        self.scheduler: Scheduler = executor.workflow.scheduler
        self.job = FakeJob(folder / "project" / "summary.json")

    def wait(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, "nothing happened for 20 s"
            assert not self.scheduler.problems, self.scheduler.problems
            time.sleep(0.005)

    def polls(self) -> None:
        """Wait until the queue was looked at anew, and what it said was dealt with."""
        seen = len(self.cluster.calls("squeue"))
        self.wait(lambda: len(self.cluster.calls("squeue")) >= seen + 3)

    def submit(self) -> None:
        self.executor.run_jobs([self.job])
        self.wait(lambda: hasattr(self.job, "registered"))


@pytest.fixture
def lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[Lab]:
    project = tmp_path / "project"
    (project / ".snakemake").mkdir(parents=True)
    monkeypatch.chdir(project)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SLURM_CONF", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(looking, "POLL_S", 0.02)
    monkeypatch.setattr(looking, "END_POLL_S", 0.01)
    monkeypatch.setattr(submission, "RETRY_S", 0.02)
    monkeypatch.setattr(submission, "SNAPSHOT_S", 0.0)
    monkeypatch.setattr("fastdllm.cluster.jobs.SECOND_LOOK_S", 0.05)
    monkeypatch.setattr("fastdllm.cluster.jobs.UNKNOWN_PATIENCE_S", 1.0)
    monkeypatch.setattr(Executor, "format_job_exec", lambda *_: "true")
    cluster = Cluster(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    caplog.set_level(logging.INFO)

    async def incomplete(job: FakeJob) -> list[str]:
        return [] if (tmp_path / "is_complete").exists() else job.output

    workflow = SimpleNamespace(
        dag=None,
        scheduler=Scheduler(),
        main_snakefile="Snakefile",
        workdir_init=str(project),
        persistence=SimpleNamespace(deactivate_cache=lambda: None, incomplete=incomplete),
        executor_plugin=SimpleNamespace(common_settings=common_settings),
        executor_settings=ExecutorSettings(logdir=Path("logs/slurm"), keep_successful_logs=True),
        storage_settings=SimpleNamespace(shared_fs_usage=()),
        remote_execution_settings=SimpleNamespace(
            max_status_checks_per_second=100,
            seconds_between_status_checks=10,
            jobname="job.{jobid}",
            jobscript=None,
            immediate_submit=False,
        ),
    )
    executor = Executor(workflow, logging.getLogger("executor"))
    yield Lab(tmp_path, executor, cluster)
    if executor.wait:
        executor.shutdown()


def lines(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    return [record.message for record in caplog.records if text in record.message]


def test_a_job_is_submitted_followed_and_finished(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    del lab.job.resources["mem_mb"]
    lab.submit()
    lab.cluster.say(("77", "PENDING"))
    lab.polls()
    lab.cluster.say(("77", "RUNNING"))
    lab.polls()
    assert lab.scheduler.finished == []
    lab.cluster.say(("77", "COMPLETED"))
    lab.wait(lambda: lab.scheduler.finished == [lab.job])
    assert lab.job.registered == "77"
    assert lines(caplog, "memory") == []
    (call,) = lab.cluster.calls("sbatch")
    assert f"--comment {COMMENT} " in call
    assert f"{lab.cluster.folder}/project/logs/slurm/rule_eval/demo_words_k1/%j.log" in call


@pytest.mark.parametrize(
    ("account", "asked"), [("lab", "-A lab "), ("a b", "-A a b "), (7, "-A 7 "), (None, "")]
)
def test_an_account_is_passed_on_without_another_question(
    lab: Lab, caplog: pytest.LogCaptureFixture, account: object, asked: str
) -> None:
    lab.cluster.break_down("sacctmgr", "slurmdbd: Connection refused\n")
    lab.job.resources["slurm_account"] = account
    lab.submit()
    (call,) = lab.cluster.calls("sbatch")
    assert asked in call
    assert ("-A" in call) is bool(asked)
    assert lab.cluster.calls("sacctmgr") == []
    assert lines(caplog, "SLURM account") == []


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("TIMEOUT", "SLURM job 77: stopped by its time limit. "),
        ("FAILED", "SLURM job 77: failed. "),
        ("NODE_FAIL", "SLURM job 77: its node failed. "),
    ],
)
def test_a_job_that_ended_badly_is_told_once_and_may_be_tried_again(
    lab: Lab, state: str, words: str
) -> None:
    lab.submit()
    lab.cluster.say(("77", state))
    lab.wait(lambda: lab.scheduler.failed == [lab.job])
    (told,) = lab.job.told
    assert told.startswith(words)
    folder = lab.cluster.folder / "project/logs/slurm/rule_eval/demo_words_k1"
    assert lab.job.logs == [f"{folder}/77.log"]
    assert lab.job.attempt <= lab.job.restart_times


def test_what_a_job_that_ended_made_is_told_by_the_journals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run, pack = Path("results/e/t/k1"), Path("results/_packs/p1")
    (run / "shards").mkdir(parents=True)
    pack.mkdir(parents=True)
    members = {"schema_version": 1, "specs": [str(run / "spec.json")]}
    (pack / "members.json").write_text(json.dumps(members))
    records = [
        {"attempt": "1", "slurm_job": "5", "why": "time limit"},
        {"attempt": "2", "slurm_job": "6", "why": "time limit", "shard": "1-of-2"},
        {"attempt": "3", "slurm_job": "7", "why": "time limit"},
        {"attempt": "4", "slurm_job": "7", "why": "failed"},
    ]
    (run / "attempts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    whole, shard = run / "summary.json", run / "shards/1-of-2.json"

    def stopped(job: str, output: Path, state: str = "FAILED") -> bool:
        return was_only_stopped(JobEnd(job, state), [output])

    assert stopped("5", whole) and stopped("5", pack / "report.json") and stopped("6", shard)
    assert not stopped("5", shard) and not stopped("6", whole)
    assert not stopped("7", whole), "it came back, and failed then"
    assert not any(stopped("5", whole, s) for s in ("CANCELLED", "TIMEOUT", "OUT_OF_MEMORY"))
    assert stopped("9", whole, "PREEMPTED") and not stopped("9", whole, "NODE_FAIL")
    (pack / "members.json").write_text("torn")
    assert not stopped("5", pack / "report.json")


@pytest.mark.parametrize("state", ["PREEMPTED", "FAILED"])
def test_a_job_that_was_only_stopped_goes_on_in_another_as_often_as_it_takes(
    lab: Lab, caplog: pytest.LogCaptureFixture, state: str
) -> None:
    why = "SIGTERM" if state == "PREEMPTED" else "time limit"
    journal = Path(lab.job.output[0]).with_name("attempts.jsonl")
    record = {"attempt": "1", "slurm_job": "77", "why": why, "chunks": 1}
    journal.write_text(json.dumps(record) + "\n")
    lab.submit()
    for count in range(1, 5):
        lab.wait(lambda count=count: len(lab.cluster.calls("sbatch")) == count)
        lab.cluster.say(("77", "RUNNING"))
        lab.polls()
        lab.cluster.say(("77", state))
    lab.wait(lambda: len(lab.cluster.calls("sbatch")) == 5)
    assert (lab.scheduler.failed, lab.job.attempt) == ([], 1)
    assert any("another job continues it" in line for line in lines(caplog, "77"))


def test_a_job_that_a_person_cancelled_is_not_tried_again(lab: Lab) -> None:
    lab.submit()
    lab.cluster.say(("77", "CANCELLED by 1000"))
    lab.wait(lambda: lab.scheduler.failed == [lab.job])
    (told,) = lab.job.told
    assert told.startswith("SLURM job 77: cancelled; this call does not submit it again. ")
    assert lab.job.attempt > lab.job.restart_times


def test_a_live_job_of_an_earlier_call_is_adopted(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    lab.cluster.say(("12", "RUNNING"))
    lab.submit()
    assert lab.cluster.calls("sbatch") == []
    line = "SLURM job 12 of an earlier snakemake continues; not submitted again"
    assert lines(caplog, "12") == [line]
    lab.polls()
    assert lab.scheduler.finished == []
    lab.cluster.say(("12", "COMPLETED"))
    lab.wait(lambda: lab.scheduler.finished == [lab.job])


def test_a_job_for_something_else_is_not_adopted(lab: Lab) -> None:
    lab.cluster.say(("12", "RUNNING"), comment="rule_eval_wildcards_demo_words_k2")
    lab.submit()
    assert lab.job.registered == "77"


def test_a_job_that_was_ending_already_is_waited_for_and_replaced(lab: Lab) -> None:
    lab.cluster.say(("12", "COMPLETING"))
    lab.submit()
    assert lab.job.registered == "12"
    lab.cluster.say(("12", "CANCELLED"))
    lab.wait(lambda: lab.job.registered == "77")
    assert lab.scheduler.failed == []
    assert lab.job.attempt == 1


def test_a_job_that_came_back_from_its_end_is_a_job_like_others(lab: Lab) -> None:
    lab.cluster.say(("12", "COMPLETING"))
    lab.submit()
    lab.cluster.say(("12", "PENDING"))
    lab.polls()
    lab.cluster.say(("12", "CANCELLED"))
    lab.wait(lambda: lab.scheduler.failed or lab.cluster.calls("sbatch"))
    assert lab.scheduler.failed == [lab.job]
    assert lab.job.told[0].startswith("SLURM job 12: cancelled; this call does not submit it")
    assert lab.cluster.calls("sbatch") == []


def test_nothing_is_submitted_again_once_the_call_ends(lab: Lab) -> None:
    lab.cluster.say(("12", "COMPLETING"))
    lab.submit()
    lab.executor._stop_submitting()
    lab.cluster.say(("12", "CANCELLED"))
    lab.wait(lambda: "12" in lab.executor._ended)
    lab.executor.shutdown()
    assert lab.scheduler.problems == []
    assert lab.cluster.calls("sbatch") == []


def test_a_second_attempt_does_not_adopt_the_first(lab: Lab) -> None:
    lab.submit()
    lab.cluster.say(("77", "TIMEOUT"))
    lab.wait(lambda: lab.scheduler.failed)
    # Where squeue is behind the truth.
    lab.cluster.say(("77", "RUNNING"))
    lab.submit()
    lab.wait(lambda: len(lab.cluster.calls("sbatch")) == 2)


@pytest.mark.parametrize("is_complete", [True, False])
def test_a_job_that_slurm_forgot_is_judged_by_the_mark_on_its_output(
    lab: Lab, is_complete: bool
) -> None:
    lab.submit()
    Path(lab.job.output[0]).touch()
    if is_complete:
        (lab.cluster.folder / "is_complete").touch()
    lab.wait(lambda: lab.scheduler.finished or lab.scheduler.failed)
    assert (lab.scheduler.finished == [lab.job]) is is_complete
    if not is_complete:
        assert lab.job.told[0].startswith("SLURM job 77: no longer known to SLURM. ")


def test_an_outage_is_told_once_and_waited_out(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    lab.submit()
    down = lab.cluster.break_down("squeue", "Unable to contact slurm controller\n")
    lab.polls()
    lab.polls()
    down.unlink()
    lab.cluster.say(("77", "COMPLETED"))
    lab.wait(lambda: lab.scheduler.finished == [lab.job])
    assert lines(caplog, "squeue") == [
        "squeue: Unable to contact slurm controller; jobs continue, trying again every 0 s"
    ]
    assert lines(caplog, "answers") == ["SLURM answers again"]


def test_nothing_is_submitted_while_nobody_knows_what_runs(lab: Lab) -> None:
    down = lab.cluster.break_down("squeue", "Unable to contact slurm controller\n")
    lab.executor.run_jobs([lab.job])
    lab.polls()
    assert lab.cluster.calls("sbatch") == []
    lab.cluster.say(("12", "RUNNING"))
    down.unlink()
    lab.wait(lambda: hasattr(lab.job, "registered"))
    assert lab.job.registered == "12"


def test_a_submission_that_may_work_later_is_repeated(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    error = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n"
    down = lab.cluster.break_down("sbatch", error)
    lab.executor.run_jobs([lab.job])
    lab.wait(lambda: len(lab.cluster.calls("sbatch")) >= 3)
    assert lab.scheduler.failed == []
    (told,) = lines(caplog, "sbatch")
    assert told.endswith("send/recv operation'. It is tried again for 10 minutes")
    down.unlink()
    lab.wait(lambda: hasattr(lab.job, "registered"))


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
    lab: Lab, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    monkeypatch.setattr(submission, "PATIENCE_S", 0.0)
    lab.cluster.say(("12", "RUNNING"), comment="fastdllm_main")
    down = lab.cluster.break_down("sbatch", POLICY.format(reason))
    lab.executor.run_jobs([lab.job])
    lab.wait(lambda: lab.scheduler.failed or len(lab.cluster.calls("sbatch")) >= 3)
    assert lab.scheduler.failed == []
    (told,) = lines(caplog, reason)
    assert told.endswith("It is tried again as soon as the queue takes another job of yours")
    down.unlink()
    lab.wait(lambda: hasattr(lab.job, "registered"))


def test_a_queue_that_takes_no_job_at_all_is_not_waited_for(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "PATIENCE_S", 0.1)
    lab.cluster.say(("12", "COMPLETED"))
    lab.cluster.break_down("sbatch", POLICY.format("QOSMaxSubmitJobPerUserLimit"))
    lab.executor.run_jobs([lab.job])
    lab.wait(lambda: lab.scheduler.failed == [lab.job])


@pytest.mark.parametrize(
    "reason", ["QOSMaxWallDurationPerJobLimit", "QOSMaxMemoryPerJob", "QOSMaxGRESPerUser"]
)
def test_what_the_queue_never_takes_is_not_tried_again(lab: Lab, reason: str) -> None:
    lab.cluster.break_down("sbatch", POLICY.format(reason))
    lab.executor.run_jobs([lab.job])
    lab.wait(lambda: lab.scheduler.failed or len(lab.cluster.calls("sbatch")) > 1)
    assert lab.scheduler.failed == [lab.job]
    assert len(lab.cluster.calls("sbatch")) == 1
    assert reason in lab.job.told[0]


def test_a_refused_submission_is_one_line(lab: Lab) -> None:
    error = "sbatch: error: Invalid qos specification\nsbatch: error: submission failed\n"
    lab.cluster.break_down("sbatch", error)
    lab.executor.run_jobs([lab.job])
    lab.wait(lambda: lab.scheduler.failed == [lab.job])
    (told,) = lab.job.told
    assert "Invalid qos specification sbatch: error: submission failed" in told
    assert "\n" not in told.strip()
    assert "--comment" not in told


def test_a_mistake_in_the_thread_that_submits_is_told(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("never")

    monkeypatch.setattr(submission, "own_jobs", fail)
    lab.executor.run_jobs([lab.job])
    lab.wait(lambda: lab.scheduler.failed == [lab.job])
    assert lab.job.told[0].startswith("submission failed: ZeroDivisionError('never'). ")


def test_an_interrupt_cancels_all_jobs_and_submits_no_more(lab: Lab) -> None:
    lab.cluster.say(("12", "RUNNING"))
    lab.submit()
    other = FakeJob(Path("other.json"))
    other.wildcards = ("demo", "words", "k2")
    down = lab.cluster.break_down("squeue", "no controller\n")
    lab.executor.run_jobs([other])
    lab.polls()
    lab.executor.cancel()
    down.unlink()
    assert lab.cluster.calls("scancel") == ["12"]
    assert lab.cluster.calls("sbatch") == []
    assert lab.scheduler.problems == []
    assert not Path(lab.executor.tmpdir).exists()


def test_a_submission_that_an_interrupt_met_on_its_way_is_cancelled_as_well(lab: Lab) -> None:
    lab.submit()
    own = lab.executor.run_uuid
    lab.cluster.say(
        ("77", "RUNNING", own), ("78", "PENDING", own), ("79", "COMPLETED", own), ("80", "RUNNING")
    )
    lab.executor.cancel()
    assert lab.cluster.calls("scancel") == ["77", "78"]


def test_jobs_that_outlive_the_call_find_the_folder_that_they_wait_for(lab: Lab) -> None:
    lab.submit()
    lab.cluster.say(("77", "PENDING"))
    lab.executor.shutdown()
    assert Path(lab.executor.tmpdir).is_dir()
    assert lab.cluster.calls("scancel") == []


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


def test_both_plugins_can_be_chosen_and_configured() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "{fastdllm-slurm,slurm," in done.stdout
    for option in ("--slurm-logdir", "--fastdllm-slurm-logdir", "--fastdllm-slurm-requeue"):
        assert f"{option} " in done.stdout or f"{option}]" in done.stdout


# SLURM_CONF, and whether the pinned plugins still lose it.


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
        scheduler=Scheduler(),
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
    lab: Lab, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    async def status(*_: object) -> tuple[dict[str, str], float]:
        return {"77": state}, 0.01

    monkeypatch.setattr("snakemake_executor_plugin_slurm.query_job_status", status)
    lab.executor._preemption_warning = True
    info = SubmittedJobInfo(lab.job, external_jobid="77", aux={"slurm_logfile": Path("77.log")})

    async def look() -> list[SubmittedJobInfo]:
        return [job async for job in SlurmExecutor.check_active_jobs(lab.executor, [info])]

    assert asyncio.run(look()) == [info], (
        f"the slurm plugin ends a job in state {state} now; once it also adopts jobs, use it alone"
    )
