"""What `fastdllm status` says of main processes: submitted, waiting, at work, ended."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastdllm.cli import main
from fastdllm.cluster.slurm import Job, JobState
from fastdllm.cluster.submission import record_submission
from fastdllm.commands.status_main import Main, main_processes_of
from fastdllm.commands.status_record import as_record
from fastdllm.commands.status_text import as_text
from fastdllm.commands.status_view import notes, suggest
from fastdllm.workflow.main_process import Life, MainProcess
from fastdllm.workflow.project.runs import load_project
from fastdllm.workflow.status.queue import Queue, queue_of
from fastdllm.workflow.status.run_status import RunStatus, inspect
from tests.support.fakes import squeue_output
from tests.support.small_project import make_project

WORDS = ["--profile", "profiles/pace", "--config", "limit=20", "task=two words", "account=lab"]
COMMAND = "fastdllm submit --profile profiles/pace --config limit=20 'task=two words' account=lab"
LOG = Path("logs/slurm/main/42.log")


@pytest.fixture(autouse=True)
def status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunStatus]:
    """A run that nobody makes yet, in the small project that is the working directory."""
    monkeypatch.chdir(make_project(tmp_path / "project").path)
    yield inspect(load_project().runs[0])


def main_job(state: str, number: int = 42, **values: str) -> Job:
    place = {} if state == "PENDING" else {"node": "node-1"}
    fields = {"comment": "fastdllm_main", "work_dir": str(Path.cwd()), **place, **values}
    return Job(id=str(number), state=state, **fields)


def by_hand(**values: str) -> MainProcess:
    fields = {"host": "login-1", "since": "2026-01-01 10:00", "command": "snakemake --profile p"}
    return MainProcess(pid=7, **{**fields, **values})


def found(*jobs: Job, accounts: tuple[JobState, ...] = (), **values: object) -> list[Main]:
    def ask(ids: object) -> dict[str, JobState]:
        return {job.id: job for job in accounts if job.id in set(ids)}  # type: ignore[call-overload]

    queue = values.get("queue", queue_of(jobs))
    return main_processes_of(queue, values.get("processes", ()), ask)  # type: ignore[arg-type]


def log(text: str = "") -> None:
    LOG.parent.mkdir(parents=True, exist_ok=True)
    LOG.write_text(text)


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (("PENDING", "Priority"), "SLURM job 42 (waits behind jobs of higher priority)"),
        (("PENDING", "JobHeldUser"), "SLURM job 42 (held by its owner: scontrol release 42)"),
        (("REQUEUED", ""), "SLURM job 42 (waits for the scheduler)"),
        (("RUNNING", ""), "SLURM job 42 on node-1"),
    ],
)
def test_what_was_submitted_is_named_with_its_words(
    status: RunStatus, job: tuple[str, str], words: str
) -> None:
    record_submission("42", WORDS)
    mains = found(main_job(job[0], reason=job[1]))
    assert mains == [Main(Life.ALIVE, words, COMMAND)]
    told = suggest([status], {}, mains=mains)
    assert told == "fastdllm status --watch --limit 20 --task 'two words'"
    assert suggest([status], {"task": "a"}, mains=mains) == "fastdllm status --watch --task a"
    assert as_text([status], told, [], mains=mains, color=False).endswith(
        f"\nmain:    {words}: {COMMAND}\nnext:    {told}\n"
    )
    log()
    mains = found(main_job(job[0], reason=job[1]))
    text = as_text([status], told, [], mains=mains, color=False)
    assert text.endswith(f": {COMMAND}\n         tail -f {LOG}\nnext:    {told}\n")
    (record,) = as_record([status], told, [], mains=mains)["main_processes"]
    assert record == {"life": "alive", "words": words, "command": COMMAND, "log": str(LOG)}


def test_the_words_are_those_of_the_job_that_lives() -> None:
    record_submission("41", WORDS)
    assert found(main_job("RUNNING"))[0].command == ""
    process = by_hand(slurm_job="42", command="snakemake --profile p")
    (told,) = found(main_job("RUNNING"), processes=[(process, Life.ALIVE)])
    assert (told.words, told.command) == ("SLURM job 42 on node-1", "snakemake --profile p")


@pytest.mark.parametrize(
    ("listed", "accounts", "text", "words"),
    [
        (("CANCELLED", ""), (), "", "cancelled while it waited"),
        (("CANCELLED", "node-1"), (), "", "cancelled"),
        (None, (JobState("42", "CANCELLED", 0),), "", "cancelled"),
        (("FAILED", "node-1"), (), "boo\n", "failed: boo"),
        (None, (JobState("42", "FAILED", 1),), "boo\n", "failed: boo"),
        (None, (), "boo\n", "ended"),
        (None, (JobState("42", "RUNNING", 0),), "boo\n", "ended"),
    ],
)
def test_one_that_ended_badly_is_told_with_its_log_and_how_to_go_on(
    status: RunStatus,
    listed: tuple[str, str] | None,
    accounts: tuple[JobState, ...],
    text: str,
    words: str,
) -> None:
    record_submission("42", WORDS)
    log(text)
    jobs = [] if listed is None else [main_job(listed[0], node=listed[1])]
    mains = found(*jobs, accounts=accounts)
    assert [(told.life, told.words) for told in mains] == [(Life.DEAD, f"SLURM job 42 {words}")]
    (line,) = notes([status], queue_of(jobs), [], mains)
    assert line == f"SLURM job 42 {words} (log: {LOG}); what goes on: {COMMAND}"
    selected = {"limit": "20", "task": "two words"}
    assert suggest([status], selected, mains=mains) == COMMAND
    other = suggest([status], {}, profile="profiles/pace", mains=mains)
    assert other == "snakemake --profile profiles/pace", "it was about other runs"
    assert "main:" not in as_text([status], "", [], mains=mains, color=False)


@pytest.mark.parametrize("job", ["listed", "accounted"])
def test_one_that_ended_well_is_not_told(job: str) -> None:
    record_submission("42", WORDS)
    listed = [main_job("COMPLETED")] if job == "listed" else []
    assert found(*listed, accounts=(JobState("42", "COMPLETED", 0),)) == []


def test_another_job_of_the_same_id_is_not_the_main_process() -> None:
    record_submission("42", WORDS)
    others = [
        main_job("RUNNING", work_dir="/another/project"),
        main_job("RUNNING", comment="rule_eval_wildcards_a"),
        main_job("RUNNING", comment=""),
    ]
    for other in others:
        assert [told.life for told in found(other)] == [Life.DEAD]


def test_one_that_was_started_by_hand_is_named(status: RunStatus) -> None:
    own = Path(".snakemake/log/a.snakemake.log")
    own.parent.mkdir(parents=True)
    own.touch()
    older = by_hand(since="2025-01-01 10:00", log="gone.log"), Life.ALIVE
    latest = by_hand(command="snakemake -c1 --config=task=words -q", log=str(own)), Life.ALIVE
    mains = found(processes=[older, latest], queue=None)
    assert [told.words for told in mains] == [
        "process 7 on login-1 since 2026-01-01 10:00 UTC",
        "process 7 on login-1 since 2025-01-01 10:00 UTC",
    ]
    assert [told.log for told in mains] == [own, None]
    assert suggest([status], {}, mains=mains) == "fastdllm status --watch --task words"


def test_one_that_cannot_be_seen_is_named_and_not_waited_for(status: RunStatus) -> None:
    (told,) = found(processes=[(by_hand(), Life.UNKNOWN)])
    place = "process 7 on login-1 since 2026-01-01 10:00 UTC"
    assert told.words == f"{place}, if it lives (look: ssh login-1 ps -p 7)"
    assert suggest([status], {}, mains=[told]) == "snakemake"
    assert found(processes=[(by_hand(), Life.DEAD)]) == []


@pytest.mark.parametrize("queue", [None, Queue(problem="squeue: no answer for 60 s")])
def test_without_an_answer_of_squeue_what_was_submitted_may_live(queue: Queue | None) -> None:
    record_submission("42", WORDS)
    (told,) = found(queue=queue)
    assert (told.life, told.words) == (Life.UNKNOWN, "SLURM job 42, if it lives")


def test_what_another_user_submitted_may_live(monkeypatch: pytest.MonkeyPatch) -> None:
    record_submission("42", WORDS)
    monkeypatch.setattr(os, "getuid", lambda: -1)
    assert [told.life for told in found()] == [Life.UNKNOWN]


@pytest.mark.parametrize("text", ["{", '{"job": 42}', '{"job": "42", "arguments": "x"}', "[]"])
def test_a_damaged_record_of_what_was_submitted_is_none(text: str) -> None:
    path = Path(".snakemake/fastdllm/submitted.json")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert found() == []


def test_status_names_what_was_submitted_a_moment_ago(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "jobs").write_text(squeue_output(main_job("PENDING")))
    (folder / "squeue").write_text('#!/bin/sh\nexec cat "${0%/*}/jobs"\n')
    (folder / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    record_submission("42", WORDS)
    assert main(["status"]) == 0
    *_, told, following = capsys.readouterr().out.splitlines()
    assert told == f"main:    SLURM job 42 (waits for the scheduler): {COMMAND}"
    assert following == "next:    fastdllm status --watch --limit 20 --task 'two words'"
