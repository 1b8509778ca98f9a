"""`fastdllm submit`: what is checked before, and what is asked of sbatch."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastdllm.cli import main
from fastdllm.cluster import checks, slurm
from fastdllm.cluster.choice import Choice
from fastdllm.cluster.slurm import Job, SlurmError
from fastdllm.cluster.submission import Submission, forget_submission, read_submission
from fastdllm.commands import submit
from fastdllm.workflow import main_process
from fastdllm.workflow import prepare as preparing
from fastdllm.workflow.main_process import MainProcess
from fastdllm.workflow.project import config_files as configuring

CHOICE = Choice(
    site="PACE",
    account="lab",
    gpu="A100",
    gres="gpu:A100:1",
    constraint=None,
    partition="gpu-a100",
    cpu_partition="cpu-small",
    qos="embers",
    max_minutes=480,
    mem_per_gpu="32G",
)
ARGUMENTS = ["--profile", "profiles/pace", "--config", "limit=20", "task=two words"]


class Calls:
    """What was asked for, with answers of one's own."""

    def __init__(self) -> None:
        self.choice: Choice | None = CHOICE
        self.words: Mapping[str, str] = {}
        self.dry_run: list[str] = []
        self.code = 0
        self.jobs: list[Job] = []
        self.sbatch: list[tuple[str, ...]] = []
        self.error = ""
        self.partitions: dict[str, set[str]] = {"cpu-small": set(), "long": set()}

    def prepare(
        self, _: object, words: Mapping[str, str], *__: object, other_jobs: int, **___: Any
    ) -> Choice | None:
        assert other_jobs == 1, "the job itself is in the queue too"
        self.words = words
        return self.choice

    def run(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.dry_run = command
        return subprocess.CompletedProcess(command, self.code, stdout="Job 1: eval\n")

    def ask(self, *command: str) -> str:
        if self.error:
            raise SlurmError(self.error)
        self.sbatch.append(command)
        return "42;pace\n"


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(preparing, "prepare", calls.prepare)
    monkeypatch.setattr(configuring, "load_workflow_config", lambda: None)
    monkeypatch.setattr(slurm, "own_jobs", lambda: calls.jobs)
    monkeypatch.setattr(slurm, "ask", calls.ask)
    monkeypatch.setattr(submit.subprocess, "run", calls.run)
    monkeypatch.setattr(checks, "partitions", lambda **_: calls.partitions)
    return calls


def test_the_main_process_becomes_a_small_job(
    calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", "--hours", "2", *ARGUMENTS]) == 0
    ((name, *options),) = calls.sbatch
    assert name == "sbatch"
    expected = {
        *("--account=lab", "--partition=cpu-small", "--qos=embers", "--time=120", "--mem=4000"),
        *("--cpus-per-task=1", "--requeue", "--signal=B:USR1@120", "--comment=fastdllm_main"),
        *(f"--chdir={tmp_path}", "--output=logs/slurm/main/%j.log", "--open-mode=append"),
    }
    assert expected <= set(options)
    wrapped = options[-1].removeprefix("--wrap=exec ")
    command = [sys.executable, "-m", "fastdllm.cluster.main_job", *ARGUMENTS]
    assert shlex.split(wrapped) == command
    assert (tmp_path / "logs/slurm/main").is_dir(), "SLURM makes no folder for its log"
    told = capsys.readouterr().out
    assert "submitted SLURM job 42: snakemake --profile profiles/pace" in told
    assert "tail -f logs/slurm/main/42.log" in told


@pytest.mark.usefixtures("calls")
def test_what_was_submitted_is_recorded_as_it_was_typed() -> None:
    submission = Submission("42", ("--hours=2", "--account=a b", *ARGUMENTS))
    assert main(["submit", "--account", "a b", "--hours", "2", *ARGUMENTS]) == 0
    assert read_submission() == submission
    assert shlex.split(submission.command) == ["fastdllm", "submit", *submission.arguments]
    assert submission.log == Path("logs/slurm/main/42.log")
    forget_submission()
    assert read_submission() is None


@pytest.mark.usefixtures("calls")
def test_a_record_that_cannot_be_written_does_not_hide_the_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".snakemake").write_text("")
    assert main(["submit", *ARGUMENTS]) == 0
    assert "submitted SLURM job 42" in capsys.readouterr().out
    assert read_submission() is None


@pytest.mark.usefixtures("calls")
def test_an_answer_of_squeue_that_lacks_the_job_is_not_used_again(tmp_path: Path) -> None:
    slurm._keep([])
    assert list((tmp_path / "cache/fastdllm").iterdir())
    assert main(["submit", *ARGUMENTS]) == 0
    assert not list((tmp_path / "cache/fastdllm").iterdir())


def test_what_is_said_here_wins_over_the_site(calls: Calls) -> None:
    assert main(["submit", *ARGUMENTS, "--account", "other", "--partition=long"]) == 0
    assert {"--account=other", "--partition=long", "--time=480"} <= set(calls.sbatch[0])
    assert calls.dry_run[-5:] == ARGUMENTS


def test_the_words_of_config_reach_the_check(calls: Calls) -> None:
    assert main(["submit", "--profile", "p", "--config", "account=lab", "gpu=A100", "limit=2"]) == 0
    assert calls.words == {"account": "lab", "gpu": "A100"}


def test_nothing_is_asked_for_that_the_site_leaves_open(calls: Calls) -> None:
    calls.choice = Choice(
        **{
            f: None
            for f in Choice.__dataclass_fields__
            if f not in ("site", "gres", "words", "notes")
        },
        site="any",
        gres="gpu:1",
    )  # type: ignore[arg-type]
    assert main(["submit", *ARGUMENTS]) == 0
    assert not [o for o in calls.sbatch[0] if o.startswith(("--account", "--partition", "--qos"))]


def test_a_failing_dry_run_submits_nothing(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    calls.code = 1
    assert main(["submit", *ARGUMENTS]) == 1
    assert calls.sbatch == []
    assert "Job 1: eval" in capsys.readouterr().err


def test_the_list_of_a_dry_run_is_not_shown(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", *ARGUMENTS]) == 0
    assert calls.dry_run[:4] == [sys.executable, "-m", "snakemake", "--dry-run"]
    shown = capsys.readouterr()
    assert "Job 1: eval" not in shown.out + shown.err


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["submit", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_one_such_job_per_folder(
    calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Job(id="9", state="RUNNING", comment="fastdllm_main", work_dir=str(tmp_path))
    calls.jobs = [job]
    line = refused(ARGUMENTS, capsys)
    assert line.startswith("fastdllm: SLURM job 9 (running) runs the main process of this folder")
    assert "tail -f logs/slurm/main/9.log" in line
    assert calls.sbatch == []
    calls.jobs = [Job(id="9", state="CANCELLED", comment="fastdllm_main", work_dir=str(tmp_path))]
    assert main(["submit", *ARGUMENTS]) == 0


def test_not_beside_a_main_process_on_this_host(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = MainProcess(pid=7, host="login-3", since="2026-11-25 20:11", command="snakemake")
    monkeypatch.setattr(main_process, "living_processes", lambda: [other])
    line = refused(ARGUMENTS, capsys)
    assert (
        "snakemake (process 7 on login-3 since 2026-11-25 20:11 UTC) works in this folder" in line
    )
    assert "`kill -KILL 7`" in line
    assert calls.sbatch == []


def test_a_command_without_a_cluster_is_refused(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    calls.choice = None
    assert "fastdllm submit --profile profiles/pace" in refused(["--config", "limit=2"], capsys)


def test_a_time_without_use_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--hours 0.01" in refused(["--hours", "0.01", *ARGUMENTS], capsys)
    assert "--hours nan" in refused(["--hours", "nan", *ARGUMENTS], capsys)


@pytest.mark.parametrize(("most", "minutes"), [(120, 120), (4320, 480), (None, 480)])
def test_it_asks_for_no_more_time_than_the_queue_gives(
    calls: Calls, most: int | None, minutes: int
) -> None:
    calls.choice = replace(CHOICE, max_minutes=most)
    assert main(["submit", *ARGUMENTS]) == 0
    assert f"--time={minutes}" in calls.sbatch[0]


def test_more_time_than_the_queue_gives_is_refused(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(["--hours", "8.5", *ARGUMENTS], capsys)
    assert line.startswith("fastdllm: --hours 8.5: QOS embers allows 8; ask for less")
    assert calls.sbatch == []


def test_a_partition_that_is_not_there_is_refused(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    calls.partitions = {"cpu-smal": set(), "gpu": set()}
    line = refused(ARGUMENTS, capsys)
    assert line == (
        "fastdllm: --partition cpu-small: PACE has no such partition; did you mean cpu-smal? there "
        "are: cpu-smal, gpu"
    )
    assert calls.sbatch == []
    calls.partitions = {}
    assert main(["submit", *ARGUMENTS]) == 0, "where sinfo is silent SLURM will say"


def test_what_sbatch_refuses_is_one_line(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    calls.error = "sbatch: error: Batch job submission failed: Invalid account"
    assert refused(ARGUMENTS, capsys) == f"fastdllm: {calls.error}"
