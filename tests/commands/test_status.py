"""The states of runs on a cluster: files joined with what squeue says, and --watch."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from datetime import datetime
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console, Group
from rich.text import Text

from fastdllm.cli import main
from fastdllm.cluster.jobs import comment_of
from fastdllm.cluster.slurm import Job, JobState
from fastdllm.commands.status import as_record, as_text
from fastdllm.commands.status_main import Main, main_processes_of
from fastdllm.commands.status_view import View, notes, profile_of, suggest
from fastdllm.commands.status_watch import is_over, picture, seconds_left, watch
from fastdllm.common.errors import UserError
from fastdllm.runs.shards import Shard
from fastdllm.workflow.main_process import Life, MainProcess
from fastdllm.workflow.project.runs import Run, load_project
from fastdllm.workflow.reconcile import reconcile
from fastdllm.workflow.status.queue import Queue, queue_of
from fastdllm.workflow.status.run_status import RunStatus, State, inspect, with_accounts
from tests.support.fakes import FakeTerminal, fake_summary, log_of
from tests.support.small_project import edit, make_project

NAMES = ["demo", "words", "k1_first"]
EVAL = comment_of("eval", NAMES)
SHARD = comment_of("shard", [*NAMES, ""])
NOW = "2026-11-26T00:00:00+00:00"


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """The run demo/words/k1_first of a small project, which is the working directory."""
    monkeypatch.chdir(make_project(tmp_path / "project").path)
    reconcile(load_project())
    yield load_project().runs[0]


def job(number: int, state: str = "RUNNING", comment: str = EVAL, **values: object) -> Job:
    fields = {"id": str(number), "state": state, "comment": comment, "work_dir": str(Path.cwd())}
    place = {} if state == "PENDING" else {"node": "node-1"}
    return Job(**{**fields, **place, **values})


def look(run: Run, *jobs: Job) -> RunStatus:
    return inspect(run, jobs=queue_of(jobs))


def tell(path: Path, done: int, total: int = 8, **values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"items_done": done, "items_total": total, "state": "decoding", **values}
    path.write_text(json.dumps(record))


def note(run: Run, *records: dict[str, object]) -> None:
    with (run.folder / "attempts.jsonl").open("a") as stream:
        stream.writelines(
            json.dumps({"attempt": str(i), **r}) + "\n" for i, r in enumerate(records)
        )


def finish(run: Run) -> None:
    run.summary_path.write_text(json.dumps(fake_summary(run.spec())))


def test_a_job_that_waits_makes_a_run_queued_and_adopted(run: Run) -> None:
    status = look(run, job(12, "PENDING", reason="Priority"))
    assert (status.state, status.reason) == (State.QUEUED, "waits behind jobs of higher priority")
    assert (status.is_adopted, status.is_to_be_made) == (True, True)


def test_a_job_with_a_node_makes_a_run_running_before_it_tells_its_progress(run: Run) -> None:
    status = look(run, job(12, time_left_s=3600.0))
    assert status.state is State.RUNNING
    assert status.reason == "job 12 on node-1 is starting, 1 h 00 min left of its time"
    assert (status.is_adopted, status.is_to_be_made) == (True, True)


def test_a_job_that_outlives_its_eval_is_ending(run: Run) -> None:
    note(run, {"slurm_job": "12", "pid": 1})
    assert look(run, job(12)).reason == "job 12 on node-1 is starting"
    note(run, {"slurm_job": "12", "pid": 1, "ended": NOW})
    assert look(run, job(12)).reason == "job 12 on node-1 is ending"
    assert "job 12 on node-1 is starting" in look(run, job(12, restarts=1)).reason


def test_a_running_job_tells_items_speed_place_and_requeues(run: Run) -> None:
    tell(run.folder / "progress.json", 3, tokens_per_s=812.0, host="node-1", pid=7)
    note(
        run,
        {"slurm_job": "12", "pid": 5, "why": "SIGTERM"},
        {"slurm_job": "12", "pid": 7, "host": "node-1"},
    )
    status = look(run, job(12, time_left_s=65.0, restarts=1))
    assert status.state is State.RUNNING
    assert status.reason == (
        "3 of 8 items, 812.0 tokens/s; job 12 on node-1, 1 min 05 s left of its time; "
        "preempted once"
    )


def test_a_requeued_run_says_what_it_waits_for_and_what_is_kept(run: Run) -> None:
    tell(run.folder / "progress.json", 3, tokens_per_s=812.0)
    status = look(run, job(12, "PENDING", reason="BeginTime", restarts=2))
    assert status.state is State.QUEUED
    assert status.reason == (
        "waits for its next turn after a requeue; requeued twice; 3 of 8 items"
    )


def test_a_run_that_waits_for_its_second_try_says_why_the_first_failed(run: Run) -> None:
    (run.folder / "failed.json").write_text('{"reason": "disk full"}')
    status = look(run, job(12, "PENDING", reason="Priority"))
    assert status.state is State.QUEUED
    assert status.reason.endswith("; before: disk full")


def test_a_valid_result_counts_whatever_the_queue_says(run: Run) -> None:
    finish(run)
    assert look(run, job(12, "COMPLETING")).state is State.UNPUBLISHED
    repeat = look(run, job(12, "PENDING", reason="Resources"))
    assert (repeat.state, repeat.reason) == (
        State.UNPUBLISHED,
        "a repeat of it waits for free resources",
    )


def test_a_job_of_other_settings_leaves_what_changed(run: Run) -> None:
    finish(run)
    edit("workflow_config.yaml", "threshold: 0.9", "threshold: 0.8")
    status = look(load_project().runs[0], job(12, "PENDING"))
    assert status.state is State.QUEUED
    assert [str(change) for change in status.changes] == ["decoding.threshold 0.9 -> 0.8"]


def test_an_edit_while_a_job_waits_or_works_is_told(run: Run) -> None:
    edit("workflow_config.yaml", "threshold: 0.9", "threshold: 0.8")
    new = load_project().runs[0]
    words = "with earlier settings: decoding.threshold 0.9 -> 0.8"
    waiting, working = look(new, job(12, "PENDING", reason="Priority")), look(new, job(12))
    assert waiting.why == f"{words}; waits behind jobs of higher priority"
    assert working.why == f"{words}; job 12 on node-1 is starting"
    assert words in "".join(str(line) for line in picture(view(working), now=datetime(2026, 1, 1)))
    (told,) = as_record([waiting], "", [])["runs"]
    setting = {"key": "decoding.threshold", "old": 0.9, "new": 0.8}
    assert told["earlier_settings"] == [setting]
    with (run.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tell(run.folder / "progress.json", 3)
        assert inspect(new).why == f"{words}; 3 of 8 items", "outside SLURM as well"
    reconcile(load_project())
    assert look(new, job(12, "PENDING", reason="Priority")).earlier == ()


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("CANCELLED", "cancelled"),
        ("TIMEOUT", "stopped by its time limit"),
        ("NODE_FAIL", "its node failed"),
        ("PREEMPTED", "preempted, and not queued again"),
    ],
)
def test_a_job_that_was_taken_away_leaves_a_failed_run_that_goes_on(
    run: Run, state: str, words: str
) -> None:
    tell(run.folder / "progress.json", 3)
    status = look(run, job(12, state))
    assert (status.state, status.resumes, status.is_adopted) == (State.FAILED, True, False)
    assert status.reason == f"{words}; 3 of 8 items; the same command resumes"


def test_the_log_tells_what_squeue_has_forgotten(run: Run) -> None:
    for number, cause in ((9, "TIME LIMIT"), (12, "NODE FAILURE")):
        log = log_of("eval", NAMES, str(number))
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"slurmstepd: error: *** JOB {number} CANCELLED AT x DUE TO {cause} ***\n")
    status = look(run)
    assert status.state is State.FAILED
    assert status.reason == f"its node failed; the same command resumes (log: {log})"
    assert status.ending is not None
    assert status.ending.job_id == "12"


def test_a_log_of_other_settings_tells_nothing() -> None:
    log = log_of("eval", NAMES, "12")
    log.parent.mkdir(parents=True)
    log.write_text("slurmstepd: error: *** JOB 12 ON a CANCELLED AT x DUE TO TIME LIMIT ***\n")
    edit("workflow_config.yaml", "threshold: 0.9", "threshold: 0.8")
    new = load_project().runs[0]
    assert look(new).state is State.MISSING
    past_s = time.time() - 60
    os.utime(log, (past_s, past_s))
    reconcile(load_project())
    assert look(new).state is State.MISSING


@pytest.mark.parametrize("slurm_job", [None, "13"])
def test_a_job_after_which_another_process_began_is_past(run: Run, slurm_job: str | None) -> None:
    log = log_of("eval", NAMES, "12")
    log.parent.mkdir(parents=True)
    log.write_text("slurmstepd: error: *** JOB 12 ON a CANCELLED AT x DUE TO TIME LIMIT ***\n")
    tell(run.folder / "progress.json", 3)
    later = {"time": "2999-01-01T00:00:00+00:00", "pid": 7, "why": "interrupted"}
    note(run, later | ({"slurm_job": slurm_job} if slurm_job else {}))
    status = look(run)
    assert status.state is State.INTERRUPTED
    assert status.reason == "interrupted; 3 of 8 items; the same command resumes"


def test_the_end_of_a_job_before_its_eval_is_not_that_of_an_earlier_attempt(run: Run) -> None:
    for number in (12, 13):
        log = log_of("eval", NAMES, str(number))
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
    tell(run.folder / "progress.json", 3)
    note(run, {"time": NOW, "slurm_job": "12", "why": "time limit", "ended": NOW})
    os.utime(run.spec_path, (0, 0))
    status = look(run)
    assert status.reason == (
        f"ended before its eval began; 3 of 8 items; the same command resumes (log: {log})"
    )
    assert look(run, job(13, "CANCELLED")).reason.startswith("cancelled; 3 of 8 items")
    assert look(run, job(2, "CANCELLED")).reason.startswith("cancelled;"), "ids began anew"


def test_of_a_stopped_run_counts_what_is_stored(run: Run) -> None:
    tell(run.folder / "progress.json", 5, items_stored=4, state="stopped", tokens_per_s=9.0)
    status = look(run)
    assert status.reason == "4 of 8 items; the same command resumes"
    assert status.progress == {"items_done": 4, "items_total": 8}
    shards = run.folder / "shards"
    shards.mkdir()
    tell(shards / "1-of-2.progress.json", 3, 4, items_stored=2)
    assert look(run).reason == "6 of 12 items; the same command resumes"


def test_the_log_that_says_something_is_what_to_read_next(run: Run) -> None:
    log = log_of("eval", NAMES, "12")
    for path, text in ((log, "slurmstepd: error: no python\n"), (run.log_path, "")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    status = look(run, job(12, "FAILED"))
    assert status.reason == f"failed: slurmstepd: error: no python (log: {log})"
    assert suggest([status], {}) == f"less {log}"
    log.unlink()
    status = look(run, job(12, "FAILED"))
    assert status.reason == "failed: its logs say nothing"
    assert suggest([status], {}) == f"fastdllm eval {run.spec_path}"


def test_a_silent_squeue_blames_no_job(run: Run) -> None:
    log = log_of("eval", NAMES, "12")
    log.parent.mkdir(parents=True)
    log.write_text("slurmstepd: error: *** JOB 12 ON a CANCELLED AT x DUE TO PREEMPTION ***\n")
    assert inspect(run, jobs=Queue(problem="squeue: no answer")).state is State.MISSING
    # It may have been put back into the queue.
    assert look(run).state is State.FAILED


def test_the_exception_of_an_eval_says_more_than_its_job(run: Run) -> None:
    (run.folder / "failed.json").write_text('{"reason": "disk full", "log": "logs/x.log"}')
    status = look(run, job(12, "FAILED"))
    assert (status.state, status.resumes) == (State.FAILED, False)
    assert status.reason == "disk full (log: logs/x.log)"


def test_the_accounts_are_asked_once_and_only_of_unclear_jobs(run: Run) -> None:
    other = load_project().runs[1]
    comment = comment_of("eval", [other.experiment, other.task_folder, other.config])
    queue = queue_of([job(12, "FAILED"), job(13, "TIMEOUT", comment)])
    asked: list[set[str]] = []

    def ask(ids: object) -> dict[str, JobState]:
        asked.append(set(ids))  # type: ignore[call-overload]
        return {"12": JobState("12", "NODE_FAIL")}

    statuses = with_accounts([inspect(r, jobs=queue) for r in (run, other)], ask)
    assert asked == [{"12"}]
    assert [s.reason for s in statuses] == [
        "its node failed; the same command resumes",
        "stopped by its time limit; the same command resumes",
    ]
    assert with_accounts([inspect(other, jobs=queue)], pytest.fail)


def test_the_accounts_leave_the_name_of_a_shard(run: Run) -> None:
    (run.folder / "shards").mkdir()
    (run.folder / "shards" / "1-of-2.lock").write_text("")
    failed = look(run, job(12, "FAILED", f"{SHARD}1-of-2"))
    (told,) = with_accounts([failed], lambda _: {"12": JobState("12", "NODE_FAIL")})
    assert told.reason == "shard 1-of-2: its node failed; the same command resumes"


def test_several_looks_within_seconds_ask_squeue_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = load_project().runs
    fields = ("PENDING", "Priority", "N/A", "", "1:00", "0", "name")
    records = [
        "\x1f".join([str(number), *fields, comment_of("eval", r.name.split("/")), str(Path.cwd())])
        for number, r in enumerate(runs, 1)
    ]
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "jobs").write_text("".join(f"{record}\x1e\n" for record in records))
    (folder / "squeue").write_text('#!/bin/sh\necho >> "$0.calls"\nexec cat "${0%/*}/jobs"\n')
    (folder / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for _ in range(2):
        assert main(["status", "--json"]) == 0
        totals = json.loads(capsys.readouterr().out)["totals"]
        assert (totals["runs"], totals["queued"]) == (len(runs), len(runs))
    assert (folder / "squeue.calls").read_text() == "\n"


@pytest.mark.parametrize("is_known", [True, False])
def test_the_queue_tells_at_once_whether_a_process_elsewhere_lives(
    run: Run, is_known: bool
) -> None:
    tell(run.folder / "progress.json", 3, host="node-1", pid=7)
    note(run, {"slurm_job": "40", "host": "node-1", "pid": 7})
    assert inspect(run).state is State.RUNNING, "it told its progress a moment ago"
    # A job of another name: an interactive one, say.
    jobs = [job(40, comment="", work_dir="/home")] if is_known else []
    assert look(run, *jobs).state is (State.RUNNING if is_known else State.INTERRUPTED)


def test_the_id_of_a_process_elsewhere_may_be_that_of_another_job(run: Run) -> None:
    tell(run.folder / "progress.json", 3, host="node-1", pid=7)
    note(run, {"slurm_job": "40", "host": "node-1", "pid": 7, "time": NOW})
    other = comment_of("eval", ["demo", "words", "k2_first"])
    strangers = [
        job(40, work_dir="/home", start="2999-01-01T00:00:00"),
        job(40, comment=other, work_dir="/home"),
        job(40, comment=other),
        job(40, "PENDING", comment="", work_dir="/home"),
    ]
    for stranger in strangers:
        assert look(run, stranger).state is State.INTERRUPTED
    # Another clone may share the folder of results.
    for comment in (EVAL, f"{SHARD}1-of-2", "rule_pack_wildcards_p1"):
        clone = job(40, comment=comment, work_dir="/home", start="2025-01-01T00:00:00")
        status = look(run, clone)
        assert (status.state, status.is_adopted) == (State.RUNNING, False)


def test_what_a_pack_that_failed_never_came_to_goes_on() -> None:
    begun, untried = load_project().runs[:2]
    pack = Path("results/_packs/p1/members.json")
    pack.parent.mkdir(parents=True)
    pack.write_text(
        json.dumps({"schema_version": 1, "specs": [str(r.spec_path) for r in (begun, untried)]})
    )
    note(begun, {"slurm_job": "12", "pid": 7})
    log = log_of("pack", ["p1"], "12")
    log.parent.mkdir(parents=True)
    log.write_text("At least one job did not complete successfully.\n")
    failed = job(12, "FAILED", comment_of("pack", ["p1"]))
    assert "killed (kill -9, or out of memory)" in look(begun, failed).reason
    own = Path("logs/pack/p1.log")
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text(f"run 1 of 2, {begun.folder}: begins\n")
    status = look(untried, failed)
    assert (status.state, status.resumes) == (State.FAILED, True)
    assert "its pack ended before its turn" in status.reason
    own.write_text("fastdllm: members.json: not JSON\n")
    status = look(untried, failed)
    assert (status.state, status.resumes) == (State.FAILED, False)
    assert status.reason == f"its pack failed: fastdllm: members.json: not JSON (log: {own})"


def test_a_pack_makes_its_runs_one_after_the_other() -> None:
    runs = [r for r in load_project().runs if r.task == "words"]
    pack = Path("results/_packs/p1/members.json")
    pack.parent.mkdir(parents=True)
    pack.write_text(json.dumps({"schema_version": 1, "specs": [str(r.spec_path) for r in runs]}))
    at_work = job(12, comment=comment_of("pack", ["p1"]))
    tell(runs[0].folder / "progress.json", 3)
    with (runs[0].folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        first, second = (look(r, at_work) for r in runs)
    assert (first.state, first.reason) == (State.RUNNING, "3 of 8 items; job 12 on node-1")
    assert (second.state, second.reason) == (
        State.QUEUED,
        "waits for its turn in pack p1, job 12 on node-1",
    )
    assert [job.pack for job in second.jobs] == ["p1"]
    (runs[0].folder / "failed.json").write_text('{"reason": "disk full"}')
    assert look(runs[0], at_work).state is State.QUEUED, "it failed in an earlier job"
    note(runs[0], {"time": "2026-01-01T00:00:00+00:00", "pid": 1, "host": "h", "slurm_job": "12"})
    assert look(runs[0], at_work).state is State.FAILED, "while the others go on"
    finish(runs[0])
    assert look(runs[0], at_work).state is State.UNPUBLISHED


def test_shards_are_added_up(run: Run) -> None:
    plan = run.plan_folder / "plan.json"
    plan.write_text(json.dumps({"chunks": [[0, 1], [2, 3], [4, 5], [6]]}))
    shards = run.folder / "shards"
    shards.mkdir()
    (shards / "1-of-3.json").write_text(json.dumps({"fingerprint": run.fingerprint}))
    tell(shards / "2-of-3.progress.json", 1, 2, tokens_per_s=5.0, time_left_s=60.0)
    tell(shards / "3-of-3.progress.json", 1, 2, tokens_per_s=9.0)
    with (shards / "2-of-3.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        jobs = job(12, comment=f"{SHARD}2-of-3"), job(13, "PENDING", f"{SHARD}3-of-3")
        status = look(run, *jobs)
    assert status.state is State.RUNNING
    assert status.reason == (
        "1 of 3 shards at work, 1 queued, 1 done; 5 of 7 items, 5.0 tokens/s, 1 min 00 s left; "
        "job 12 on node-1"
    )
    assert [job.shard for job in status.jobs] == [Shard(2, 3), Shard(3, 3)]


def test_a_run_whose_shards_are_put_together_is_running(run: Run) -> None:
    (run.folder / "shards").mkdir()
    (run.plan_folder / "plan.json").write_text(json.dumps({"chunks": [[0, 1], [2]]}))
    stamp = json.dumps({"fingerprint": run.fingerprint})
    (run.folder / "shards" / "1-of-1.json").write_text(stamp)
    with (run.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status = look(run)
    assert status.state is State.RUNNING
    words = "0 of 1 shards at work, 1 done; 3 of 3 items; its shards are being merged"
    assert status.reason == words
    elsewhere = look(run, job(12, comment=f"{SHARD}1-of-1"))
    assert (elsewhere.state, elsewhere.reason) == (State.RUNNING, f"{words}; job 12 on node-1")
    killed = look(run)
    assert killed.state is State.INTERRUPTED
    assert killed.reason == "3 of 3 items; the same command resumes"


def test_a_job_whose_shard_is_done_is_at_work_no_more(run: Run) -> None:
    (run.folder / "shards").mkdir()
    stamp = json.dumps({"fingerprint": run.fingerprint})
    (run.folder / "shards" / "1-of-2.json").write_text(stamp)
    ending = job(12, comment=f"{SHARD}1-of-2")
    status = look(run, ending, job(13, "PENDING", f"{SHARD}2-of-2", reason="Priority"))
    assert status.state is State.QUEUED
    assert status.reason.startswith("0 of 2 shards at work, 1 queued, 1 done; waits behind jobs")


def test_of_several_jobs_that_ended_the_one_that_would_end_so_again_is_told(run: Run) -> None:
    (run.folder / "shards").mkdir()
    (run.folder / "shards" / "1-of-2.lock").write_text("")
    whole = job(11, "OUT_OF_MEMORY")
    shards = [job(12, "OUT_OF_MEMORY", f"{SHARD}1-of-2"), job(13, "CANCELLED", f"{SHARD}2-of-2")]
    assert look(run, whole, shards[1]).reason.startswith("shard 2-of-2: cancelled; ")
    assert look(run, whole, *shards).reason.startswith("shard 1-of-2: out of memory")
    assert look(run, job(14, "TIMEOUT"), *shards).reason.startswith("stopped by its time limit")


def test_a_shard_that_failed_is_told_by_name(run: Run) -> None:
    shards = run.folder / "shards"
    shards.mkdir()
    (shards / "1-of-2.json").write_text(json.dumps({"fingerprint": "of other settings"}))
    (shards / "2-of-2.failed.json").write_text('{"reason": "disk full"}')
    status = look(run)
    assert (status.state, status.reason) == (State.FAILED, "shard 2-of-2: disk full")
    assert str(status.shards) == "0 of 2 shards at work, 1 failed"
    ended = look(run, job(12, "TIMEOUT", f"{SHARD}1-of-2"), job(13, "RUNNING", f"{SHARD}2-of-2"))
    assert ended.state is State.RUNNING


def test_what_is_queued_needs_no_submission() -> None:
    jobs = [job(12, "PENDING", reason="Priority", start="2999-01-01T10:00:00")]
    queue = queue_of(jobs)
    statuses = [inspect(r, jobs=queue) for r in load_project().runs]
    record = as_record(statuses, "", [], queue=queue)
    assert (record["totals"]["queued"], record["to_make"]["gpu_jobs"]) == (1, len(statuses) - 1)
    shown = record["runs"][0]["jobs"][0]
    assert (shown["id"], shown["reason"], shown["start"]) == ("12", "Priority", jobs[0].start)
    assert json.loads(json.dumps(record)) == record
    line = next(x for x in as_text(statuses, "", [], color=False).splitlines() if "waits" in x)
    assert line == (
        "queued  demo/words/k1_first: waits behind jobs of higher priority; "
        "expected to start at 2999-01-01 10:00"
    )
    assert suggest([statuses[0]], {}) == "fastdllm status --watch"
    assert suggest([statuses[0]], {"limit": "2"}) == "fastdllm status --watch --limit 2"


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("PENDING", "JobHeldUser"),
        ("PENDING", "JobHeldAdmin"),
        ("PENDING", "DependencyNeverSatisfied"),
        ("PENDING", "BadConstraints"),
        ("REQUEUE_HOLD", "None"),
    ],
)
def test_what_waits_for_a_person_is_not_expected_to_start(
    run: Run, state: str, reason: str
) -> None:
    start = "2999-01-01T10:00:00"
    held = job(12, state, f"{SHARD}1-of-2", reason=reason, start=start)
    status = look(run, held)
    assert "expected to start" not in as_text([status], "", [], color=False)
    assert as_record([status], "", [])["runs"][0]["jobs"][0]["start"] is None
    both = look(run, held, job(13, "PENDING", f"{SHARD}2-of-2", reason="Priority", start=start))
    words = "waits behind jobs of higher priority; expected to start at 2999-01-01 10:00"
    assert words in as_text([both], "", [], color=False)


def test_what_is_left_is_counted_in_jobs() -> None:
    edit("workflow_config.yaml", "words: {chunk_size: 2}", "words: {chunk_size: 2, shards: 3}")
    project = load_project()
    statuses = [inspect(r) for r in project.runs]
    text = as_text(statuses, "", [], config=project.config, color=False)
    assert "to make: 8 GPU jobs for 4 runs\n" in text
    record = as_record(statuses, "", [], config=project.config)
    assert record["to_make"] == {"gpu_jobs": 8, "runs": 4, "copies": 0}


def test_runs_that_wait_for_the_same_share_a_line() -> None:
    runs = [r for r in load_project().runs if r.task == "words"]
    jobs = [
        job(number, "PENDING", comment_of("eval", ["demo", "words", r.config]), reason="Resources")
        for number, r in enumerate(runs, 12)
    ]
    text = as_text([look(r, *jobs) for r in runs], "", [], color=False)
    assert "queued  demo/words/k1_first and 1 more: waits for free resources\n" in text


def snakemake(**values: str) -> MainProcess:
    fields = {"host": "login-1", "since": "2026-01-01 10:00", "command": "snakemake --profile x"}
    return MainProcess(pid=7, **{**fields, **values})


@pytest.mark.parametrize(
    ("life", "told"),
    [
        (Life.ALIVE, None),
        (Life.UNKNOWN, None),
        (Life.DEAD, "has died: the jobs continue; what submits the rest: snakemake --profile x"),
    ],
)
def test_jobs_without_a_living_snakemake_are_told(run: Run, life: Life, told: str | None) -> None:
    queue = queue_of([job(12)])
    found = [(snakemake(), life)]
    mains = main_processes_of(queue, found, dict)
    lines = notes([inspect(run, jobs=queue)], queue, found, mains)
    assert [told in line for line in lines if told] == ([True] if told else [])
    assert len(lines) == (1 if told else 0)
    assert notes([inspect(run)], queue, [(snakemake(), Life.DEAD)]) == [], "nothing is under way"


def test_what_to_type_next_submits_to_the_cluster(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SNAKEMAKE_PROFILE", raising=False)
    statuses = [inspect(run)]
    assert suggest(statuses, {"task": "words"}, profile=profile_of(None, [])) == (
        "snakemake --config task=words"
    )
    earlier = ["snakemake --profile profiles/mine -n"]
    assert suggest(statuses, {}, profile=profile_of(Queue(), earlier)) == (
        "snakemake --profile profiles/mine"
    )
    assert profile_of(Queue(), []) == "profiles/pace"


def view(*statuses: RunStatus, alive: bool = False) -> View:
    mains = [Main(Life.ALIVE, "SLURM job 7 on node-1", "fastdllm submit")] if alive else []
    return View(list(statuses), "snakemake", [], None, ["a note"], mains)


def drawn(line: Text, width: int) -> str:
    stream = StringIO()
    Console(file=stream, width=width).print(Group(line))
    return stream.getvalue().rstrip("\n")


def test_a_picture_shows_what_is_at_work_and_when_all_is_done(run: Run) -> None:
    tell(run.folder / "progress.json", 4, tokens_per_s=812.0, time_left_s=125.0)
    running = look(run, job(12))
    now = datetime(2026, 1, 1, 10, 0)
    text = "\n".join(drawn(line, 200) for line in picture(view(running), now=now))
    assert "is done in about 2 min 05 s (10:02) at this speed" in text
    bar = "[##########----------] 4/8  812 tokens/s  2 min 05 s left  job 12 on node-1"
    assert bar in text
    assert "a note" in text
    assert "main:" not in text
    living = picture(view(running, alive=True), now=now)
    assert drawn(living[-2], 200) == "main: SLURM job 7 on node-1"
    assert max(len(drawn(line, 30)) for line in picture(view(), now=now)) == 30


def test_the_outlook_shares_what_waits_out_at_the_present_speed(run: Run) -> None:
    tell(run.folder / "progress.json", 4, time_left_s=100.0)
    running = look(run, job(12))
    other = next(r for r in load_project().runs if r.name == "demo/words/k2_first")
    waiting = look(other, job(13, "PENDING", comment_of("eval", ["demo", "words", "k2_first"])))
    assert seconds_left([running]) == 100.0
    assert seconds_left([running, waiting]) is None, "nobody knows how many items it has"
    (run.plan_folder / "plan.json").write_text(json.dumps({"chunks": [[0] * 8]}))
    assert seconds_left([running, waiting]) == 300.0
    assert seconds_left([waiting]) is None


def test_watching_ends_when_nothing_runs_or_waits_and_nobody_submits(run: Run) -> None:
    missing, queued = look(run), look(run, job(12, "PENDING"))
    assert is_over(view(missing))
    assert not is_over(view(queued))
    assert not is_over(view(missing, alive=True))


@pytest.mark.parametrize("is_interrupted", [True, False])
def test_the_terminal_is_given_back_with_the_last_picture(
    run: Run, is_interrupted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    views = iter([view(look(run, job(12, "PENDING")), alive=is_interrupted)])

    def next_look() -> View:
        try:
            return next(views)
        except StopIteration:
            if is_interrupted:
                raise KeyboardInterrupt from None
            return view(look(run))

    terminal = FakeTerminal()
    assert watch(next_look, every_s=1.0, stream=terminal) == (130 if is_interrupted else 0)
    entered, _, left = terminal.text.partition("\033[?25h\033[?1049l")
    assert entered.startswith("\033[?1049h\033[H\033[?25l")
    last = "1 run: 1 queued" if is_interrupted else "1 run: 1 missing"
    assert last in left


def test_a_task_that_could_not_be_planned_is_named_until_it_is_another(
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = "tasks/words.yaml"
    edit(task, "task: words", "task: words\nunsafe_code: true")
    reconcile(load_project())
    assert main(["plan", "--task", "words"]) == 2
    capsys.readouterr()
    assert main(["status"]) == 0
    said = "words could not be planned: task 'words': its scores come from running the code"
    assert said in capsys.readouterr().out
    edit(task, "unsafe_code: true", "")
    assert main(["status"]) == 0
    assert "could not be planned" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("terminal", "every_s", "message"),
    [
        (FakeTerminal(is_terminal=False), 5.0, "draws on a terminal, and this is none"),
        (FakeTerminal(), 0.0, "--watch 0: should be 1 or more seconds"),
        (FakeTerminal(), float("nan"), "--watch nan: should be 1 or more seconds"),
    ],
)
def test_watching_refuses_in_one_line(terminal: FakeTerminal, every_s: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        watch(lambda: pytest.fail("looked"), every_s=every_s, stream=terminal)


def test_a_damaged_result_is_said_of_a_run_that_is_copied_too(run: Run) -> None:
    leader = load_project().runs[1]
    damaged = RunStatus(run, State.MISSING, "summary.json: not valid JSON", leader=leader)
    assert damaged.why == f"summary.json: not valid JSON; same as {leader.name}"
    assert RunStatus(run, State.MISSING, leader=leader).why == f"same as {leader.name}"
