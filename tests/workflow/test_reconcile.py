"""States of runs, and what reconcile writes: always safe, always the same the second time."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest

from fastdllm.workflow.artifacts import publish
from fastdllm.workflow.reconcile import PUBLISHED_STAMP, reconcile
from fastdllm.workflow.runs import Run, load_project
from fastdllm.workflow.status import State, inspect
from tests.workflow.conftest import edit


def the_run() -> Run:
    return load_project().runs[0]


def finish(run: Run) -> None:
    keys = ("experiment", "task", "config", "fingerprint", "decides")
    run.folder.mkdir(parents=True, exist_ok=True)
    run.summary_path.write_text(json.dumps({key: run.spec()[key] for key in keys}))


def states() -> list[State]:
    return [status.state for status in reconcile(load_project())]


def dates() -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in Path("results").rglob("*") if p.is_file()}


@pytest.mark.parametrize("situation", ["missing", "done", "unpublished", "stale", "published only"])
@pytest.mark.usefixtures("project")
def test_reconcile_is_idempotent(situation: str) -> None:
    if situation != "missing":
        for run in load_project().runs:
            finish(run)
    if situation in ("done", "published only"):
        publish(load_project().runs)
        Path("artifacts/demo/table.md").write_text("")
    if situation == "published only":
        shutil.rmtree("results")
    if situation == "stale":
        edit("workflow_config.yaml", "threshold: 0.9", "threshold: 0.8")
    first = states()
    before = dates()
    assert states() == first
    assert dates() == before
    expected = {"published only": State.DONE}.get(situation) or State(situation)
    assert set(first) == {expected}
    assert PUBLISHED_STAMP.exists() == (expected is State.DONE)


@pytest.mark.usefixtures("project")
def test_dates_say_what_the_fingerprint_says() -> None:
    finish(the_run())
    states()
    assert the_run().spec_path.stat().st_mtime == 0
    future_s = the_run().summary_path.stat().st_mtime + 3600
    os.utime(the_run().summary_path, (future_s, future_s))
    edit("workflow_config.yaml", "threshold: 0.9", "threshold: 0.8")
    states()
    assert the_run().spec_path.stat().st_mtime > future_s, "even where the clocks disagree"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"fingerprint": 3}', "\x00\x00"])
@pytest.mark.usefixtures("project")
def test_a_damaged_summary_counts_as_missing_and_is_kept(content: str) -> None:
    run = the_run()
    run.folder.mkdir(parents=True)
    run.summary_path.write_text(content)
    status = inspect(run)
    assert status.state is State.MISSING
    assert "summary.json" in status.reason
    states()
    assert (run.folder / "summary.damaged.json").read_text() == content


@pytest.mark.usefixtures("project")
def test_a_damaged_summary_is_taken_back_from_artifacts() -> None:
    run = the_run()
    finish(run)
    publish([run])
    run.summary_path.write_text("{")
    assert states()[0] is State.DONE
    assert json.loads(run.summary_path.read_text())["fingerprint"] == run.fingerprint


@pytest.mark.usefixtures("project")
def test_a_result_of_other_settings_is_kept_aside_when_one_is_taken_back() -> None:
    old = the_run()
    finish(old)
    publish([old])
    edit("workflow_config.yaml", "threshold: 0.9", "threshold: 0.8")
    new = the_run()
    finish(new)
    (new.folder / "samples.jsonl").write_text("of the new settings")
    edit("workflow_config.yaml", "threshold: 0.8", "threshold: 0.9")
    states()
    mark = new.fingerprint[:8]
    assert json.loads(old.summary_path.read_text())["fingerprint"] == old.fingerprint
    kept = json.loads((new.folder / f"summary.{mark}.json").read_text())
    assert kept["fingerprint"] == new.fingerprint
    assert (new.folder / f"samples.{mark}.jsonl").exists()


@pytest.mark.usefixtures("project")
def test_a_run_is_running_while_its_lock_is_held() -> None:
    run = the_run()
    finish(run)
    edit("workflow_config.yaml", "threshold: 0.9", "threshold: 0.8")
    run = the_run()
    (run.folder / "progress.json").write_text('{"items_done": 3, "items_total": 8}')
    with (run.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status = inspect(run)
        assert (status.state, status.reason) == (State.RUNNING, "3 of 8 items")
    status = inspect(run)
    assert status.state is State.INTERRUPTED
    assert "same command resumes" in status.reason
    assert [str(change) for change in status.changes] == ["decoding.threshold 0.9 -> 0.8"]


@pytest.mark.usefixtures("project")
def test_a_failed_run_says_why_and_where() -> None:
    run = the_run()
    run.folder.mkdir(parents=True)
    (run.folder / "failed.json").write_text('{"reason": "out of memory", "log": "logs/x.log"}')
    status = inspect(run)
    assert status.state is State.FAILED
    assert status.reason == "out of memory (log: logs/x.log)"


@pytest.mark.usefixtures("project")
def test_publishing_again_touches_nothing() -> None:
    run = the_run()
    finish(run)
    assert publish([run]) == [run]
    before = run.artifact_path.stat().st_mtime_ns
    assert publish([run]) == []
    assert run.artifact_path.stat().st_mtime_ns == before
