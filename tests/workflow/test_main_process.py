"""Main processes of Snakemake in one folder: alive, killed, on another host, in a SLURM job."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastdllm.cluster.slurm import Job, SlurmError
from fastdllm.cluster.submission import read_submission, record_submission
from fastdllm.common.errors import UserError
from fastdllm.entry import open_call
from fastdllm.workflow import main_process
from fastdllm.workflow.main_process import (
    LOCKS,
    RECORDS,
    claim_folder,
    living_processes,
    refuse_overlap,
)
from tests.support.fakes import without_name
from tests.support.run_project import PATIENCE_S
from tests.support.small_project import make_project

WAITING_EVAL = """\
import sys, time
from pathlib import Path

while sys.argv[1] == "eval" and not Path("go").exists():
    Path("waits").touch()
    time.sleep(0.02)
"""
SUMMARY = "results/demo/words/k1/summary.json"
HOLDER = """\
import sys
from fastdllm.workflow.main_process import claim_folder
claim_folder(is_dry_run=False, arguments=["--profile", "profiles/pace"])
print("claimed", flush=True)
sys.stdin.read()
"""

Start = Callable[[], subprocess.Popen[str]]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    yield
    for path in RECORDS.glob(f"*-{os.getpid()}.json"):
        path.unlink()


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts main processes that claim the folder and live until they are killed."""
    started = []

    def one() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "claimed\n"
        return process

    yield one
    for process in started:
        process.kill()
        process.communicate()


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def lock(*outputs: str) -> None:
    LOCKS.mkdir(parents=True, exist_ok=True)
    (LOCKS / "0.input.lock").write_text("results/demo/words/k1/spec.json\n")
    (LOCKS / "0.output.lock").write_text("".join(f"{name}\n" for name in outputs))


def record(**values: object) -> None:
    RECORDS.mkdir(parents=True, exist_ok=True)
    fields = {
        "pid": 7,
        "host": "login-3",
        "since": "2026-11-25 20:11",
        "command": "snakemake",
        "slurm_job": None,
        **values,
    }
    (RECORDS / f"main-{fields['host']}-{fields['pid']}.json").write_text(json.dumps(fields))


def locks() -> list[str]:
    return sorted(path.name for path in LOCKS.glob("*"))


def queue(monkeypatch: pytest.MonkeyPatch, *jobs: Job) -> None:
    monkeypatch.setattr(main_process, "has_slurm", lambda: True)
    monkeypatch.setattr(main_process, "own_jobs", lambda **_: list(jobs))


@pytest.mark.slow
def test_the_locks_of_a_killed_process_are_cleared(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    process = start()
    lock(SUMMARY)
    kill(process)
    claim_folder(is_dry_run=False, arguments=[])
    assert locks() == []
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fastdllm: cleared the locks of a dead snakemake (process ")
    assert f"process {process.pid} on {socket.gethostname()} since 20" in line
    assert [path.name for path in RECORDS.iterdir()] == [
        f"main-{socket.gethostname()}-{os.getpid()}.json"
    ]


@pytest.mark.slow
def test_the_locks_of_a_living_process_stay(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    dead, process = start(), start()
    kill(dead)
    lock(SUMMARY)
    claim_folder(is_dry_run=False, arguments=[])
    assert locks() == ["0.input.lock", "0.output.lock"]
    assert capsys.readouterr().err == ""
    assert [other.pid for other in living_processes()] == [process.pid]
    refuse_overlap(["results/demo/words/k2/summary.json"])
    message = (
        rf"snakemake \(process {process.pid} on \S+ since .* UTC\) is making {SUMMARY}; wait.* "
        rf"dead \(ps -p {process.pid}\): snakemake --unlock"
    )
    with pytest.raises(UserError, match=message):
        refuse_overlap([SUMMARY])


@pytest.mark.slow
def test_a_process_that_ends_leaves_no_record(start: Start) -> None:
    process = start()
    assert len(list(RECORDS.iterdir())) == 1
    process.communicate("")
    assert process.returncode == 0
    assert list(RECORDS.iterdir()) == []


def test_locks_without_a_record_are_left_to_snakemake() -> None:
    lock(SUMMARY)
    claim_folder(is_dry_run=False, arguments=[])
    assert len(locks()) == 2
    with pytest.raises(UserError, match="another snakemake is making"):
        refuse_overlap([SUMMARY])


def test_a_process_on_another_host_may_be_alive() -> None:
    record()
    lock(SUMMARY)
    message = (
        r"locked by snakemake \(process 7 on login-3 since 2026-11-25 20:11 UTC\).*"
        "ssh login-3 ps -p 7; if it is dead: snakemake --unlock"
    )
    with pytest.raises(UserError, match=message):
        claim_folder(is_dry_run=False, arguments=[])
    assert len(locks()) == 2


def test_a_person_may_say_that_it_is_dead() -> None:
    record()
    lock(SUMMARY)
    claim_folder(is_dry_run=False, arguments=["--unlock"])
    assert len(locks()) == 2, "Snakemake clears them itself"
    assert living_processes() == []


def test_without_locks_a_process_of_another_host_is_forgotten() -> None:
    record()
    claim_folder(is_dry_run=False, arguments=[])
    assert living_processes() == []


def test_a_dry_run_changes_nothing_and_is_not_refused() -> None:
    record()
    lock(SUMMARY)
    claim_folder(is_dry_run=True, arguments=[])
    claim_folder(is_dry_run=False, arguments=["--nolock"])
    assert len(locks()) == 2
    assert len(list(RECORDS.iterdir())) == 1


@pytest.mark.parametrize(
    ("state", "is_alive"), [("RUNNING", True), ("CANCELLED", False), ("PENDING", False)]
)
def test_the_queue_tells_of_a_process_in_a_job(
    monkeypatch: pytest.MonkeyPatch, state: str, is_alive: bool
) -> None:
    record(host="node-1", slurm_job="12")
    queue(monkeypatch, Job(id="12", state=state), Job(id="13", state="RUNNING"))
    assert [process.slurm_job for process in living_processes()] == (["12"] if is_alive else [])


@pytest.mark.parametrize(
    "values",
    [
        {"start": "2999-01-01T00:00:00"},
        {"comment": "fastdllm_main", "work_dir": "/another/project"},
        {"comment": "rule_eval_wildcards_a", "work_dir": "/another/project"},
    ],
)
def test_another_job_of_the_same_id_is_no_sign_of_life(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str]
) -> None:
    record(host="node-1", slurm_job="12")
    queue(monkeypatch, Job(id="12", state="RUNNING", **values))
    assert living_processes() == []


def test_of_the_job_of_another_user_squeue_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    record(host="node-1", slurm_job="12")
    queue(monkeypatch)
    monkeypatch.setattr(os, "getuid", lambda: -1)
    assert [process.slurm_job for process in living_processes()] == ["12"]


def test_a_job_that_squeue_forgot_is_dead_and_a_silent_squeue_tells_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record(host="node-1", slurm_job="12")
    queue(monkeypatch)
    assert living_processes() == []

    def fail(**_: float) -> list[Job]:
        raise SlurmError("squeue: no answer")

    monkeypatch.setattr(main_process, "own_jobs", fail)
    assert len(living_processes()) == 1


def test_a_job_that_starts_again_clears_its_own_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    record(host="node-1", slurm_job="12")
    lock(SUMMARY)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    queue(monkeypatch, Job(id="12", state="RUNNING"))
    claim_folder(is_dry_run=False, arguments=[])
    assert locks() == []


@pytest.mark.parametrize("own_job", ["12", "13", None])
def test_what_was_submitted_belongs_to_its_job_until_another_takes_over(
    monkeypatch: pytest.MonkeyPatch, own_job: str | None
) -> None:
    record_submission("12", ["--profile", "p"])
    claim_folder(is_dry_run=True, arguments=[])
    assert read_submission() is not None
    if own_job is not None:
        monkeypatch.setenv("SLURM_JOB_ID", own_job)
    claim_folder(is_dry_run=False, arguments=[])
    assert (read_submission() is not None) is (own_job == "12")


def test_a_half_written_record_is_none() -> None:
    RECORDS.mkdir(parents=True)
    (RECORDS / "main-login-3-7.json").write_text('{"pid": 7')
    assert living_processes() == []


def test_a_folder_that_cannot_be_written_is_one_line() -> None:
    RECORDS.parent.mkdir()
    RECORDS.write_text("")
    with pytest.raises(UserError, match=r"cannot write .*a file stands where a folder is needed"):
        claim_folder(is_dry_run=False, arguments=[])


@pytest.mark.slow
def test_snakemake_goes_on_after_it_was_killed(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    program = project.path / "fastdllm/__main__.py"
    program.write_text(WAITING_EVAL + program.read_text())
    command = ["--config", "task=words", "config=k1_first"]
    with subprocess.Popen(
        [sys.executable, "-m", "snakemake", *command],
        cwd=project.path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as first:
        deadline = time.monotonic() + PATIENCE_S
        while not (project.path / "waits").exists():
            assert time.monotonic() < deadline and first.poll() is None
            time.sleep(0.02)
        second = project.snakemake(*command)
        notice = f"fastdllm: snakemake (process {first.pid} on {socket.gethostname()} since "
        assert (second.returncode, second.stderr.splitlines()[-1][: len(notice)]) == (2, notice)
        first.kill()
    (project.path / "go").touch()
    third = project.snakemake(*command)
    assert third.returncode == 0, third.stderr
    assert f"cleared the locks of a dead snakemake (process {first.pid} on " in third.stderr
    assert list((project.path / RECORDS).iterdir()) == []


def test_a_user_without_a_name_is_refused_before_snakemake_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_name(monkeypatch)
    with pytest.raises(SystemExit) as ended:
        open_call({}, is_main_process=True, is_dry_run=False)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("export USER=<name>, and type the same command again")
