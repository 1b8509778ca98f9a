"""States of runs, and what reconcile writes: always safe, always the same the second time."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from fastdllm.commands.status import as_text
from fastdllm.records.result_files import table_mark
from fastdllm.records.summary import Summary
from fastdllm.tasks.plan import SCHEMA_VERSION
from fastdllm.workflow.project.artifacts import publish, stored_summary
from fastdllm.workflow.project.runs import Run, load_project
from fastdllm.workflow.project.selection import Selection
from fastdllm.workflow.reconcile import PUBLISHED_STAMP, reconcile
from fastdllm.workflow.status.run_status import State, inspect
from tests.support.fakes import fake_summary
from tests.support.small_project import edit


def the_run() -> Run:
    return load_project().runs[0]


def finish(run: Run) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    run.summary_path.write_text(json.dumps(fake_summary(run.spec())))


def write_tables() -> None:
    records = [stored_summary(run.artifact_path).record for run in load_project().runs]
    Path("artifacts/demo/table.md").write_text(f"# demo\n{table_mark(records)}")
    Path("artifacts/demo/table.csv").write_text("")


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
        write_tables()
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
    spec_s = the_run().spec_path.stat().st_mtime
    assert the_run().summary_path.stat().st_mtime < spec_s, "even where the clocks disagree"
    assert spec_s <= time.time(), "what is made next is newer"


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"fingerprint": 3}', '{"fingerprint": "x"}', '{"accuracy": NaN}', "\x00\x00"],
)
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
def test_a_failed_or_interrupted_repeat_is_told_beside_the_valid_result() -> None:
    run = the_run()
    finish(run)
    (run.folder / "progress.json").write_text('{"items_done": 3, "items_total": 8}')
    assert "a repeat of it was interrupted: 3 of 8 items" in inspect(run).reason
    (run.folder / "failed.json").write_text('{"reason": "disk full"}')
    status = inspect(run)
    assert (status.state.has_result, status.reason) == (True, "a repeat of it failed: disk full")


@pytest.mark.usefixtures("project")
def test_what_another_snakemake_is_making_is_left_alone() -> None:
    states()
    plan = Path("results/_plans/words/plan.json")
    plan.write_text("{}")
    before = {path: text for path in dates() if (text := Path(path).read_bytes()) is not None}
    edit("workflow_config.yaml", "chunk_size: 2", "chunk_size: 3")
    edit("workflow_config.yaml", "threshold: 0.9", "threshold: 0.8")
    project = load_project()
    held = frozenset([str(plan), *(str(r.summary_path) for r in project.runs if r.task == "words")])
    reconcile(project, held=held)
    for path, text in before.items():
        changed = Path(path).read_bytes() != text
        is_held = "/words/" in path
        assert not (changed and is_held), path
    assert the_run().spec()["fingerprint"] not in the_run().spec_path.read_text()


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("damage", ["half written", "another version"])
def test_a_damaged_plan_is_dropped_but_not_by_a_dry_run(damage: str) -> None:
    states()
    plan = Path("results/_plans/words/plan.json")
    whole = {"digest": hashlib.sha256(b"").hexdigest(), "schema_version": SCHEMA_VERSION}
    plan.write_text(json.dumps(whole))
    plan.with_name("requests.jsonl").write_text("")
    plan.with_name("made_from.json").write_bytes(plan.with_name("spec.json").read_bytes())
    reconcile(load_project())
    assert plan.exists(), "nothing is wrong with it"
    older = json.dumps(whole | {"schema_version": SCHEMA_VERSION - 1})
    plan.write_text('{"digest"' if damage == "half written" else older)
    reconcile(load_project(), is_dry_run=True)
    assert plan.exists()
    reconcile(load_project())
    assert not plan.exists()


@pytest.mark.parametrize("damage", ["missing csv", "old rows", "no table"])
@pytest.mark.usefixtures("project")
def test_tables_that_do_not_show_the_artifacts_are_made_again(damage: str) -> None:
    for run in load_project().runs:
        finish(run)
    publish(load_project().runs)
    write_tables()
    states()
    assert PUBLISHED_STAMP.exists()
    if damage == "missing csv":
        Path("artifacts/demo/table.csv").unlink()
    elif damage == "no table":
        Path("artifacts/demo/table.md").unlink()
    else:
        edit("experiments/demo/experiment.yaml", "reuse_k: [1, 2]", "reuse_k: [1]")
    states()
    assert not PUBLISHED_STAMP.exists()


@pytest.mark.usefixtures("project")
def test_what_counts_as_a_summary_is_what_a_summary_must_hold() -> None:
    run = the_run()
    finish(run)
    record = json.loads(run.summary_path.read_text())
    for name, field in Summary.model_fields.items():
        if not field.is_required() or name == "fingerprint":
            continue
        run.summary_path.write_text(json.dumps({k: v for k, v in record.items() if k != name}))
        problem = stored_summary(run.summary_path).problem
        assert problem is not None and problem.endswith(f"(it has no {name})")


@pytest.mark.usefixtures("project")
def test_a_lock_over_published_runs_blocks_nothing() -> None:
    for run in load_project().runs:
        finish(run)
    publish(load_project().runs)
    write_tables()
    shutil.rmtree("results")
    project = load_project()
    held = frozenset(str(run.summary_path) for run in project.runs)
    assert {status.state for status in reconcile(project, held=held)} == {State.DONE}
    assert not the_run().summary_path.exists()


@pytest.mark.usefixtures("project")
def test_an_interrupted_run_that_is_published_is_gone_on_with_not_taken_back() -> None:
    run = the_run()
    finish(run)
    publish([run])
    shutil.rmtree("results")
    run.folder.mkdir(parents=True)
    run.answers_path.write_text("half of the answers")
    for _ in range(2):
        status = reconcile(load_project(), restore=False)[0]
        assert (status.state, status.reason) == (State.MISSING, "published, but not decoded here")
        assert not run.summary_path.exists()
    assert reconcile(load_project())[0].state is State.DONE
    assert run.summary_path.exists()
    again = reconcile(load_project(), restore=False)[0]
    assert again.state is State.MISSING, "taken back by another call is not decoded here either"
    assert run.spec_path.stat().st_mtime > run.summary_path.stat().st_mtime


@pytest.mark.usefixtures("project")
def test_a_selection_of_published_runs_has_nothing_to_publish() -> None:
    for run in load_project().runs:
        finish(run)
    publish(load_project().runs)
    write_tables()
    reconcile(load_project(Selection.from_options({"task": "words", "config": "k1_first"})))
    assert PUBLISHED_STAMP.exists()


@pytest.mark.usefixtures("project")
def test_publishing_again_touches_nothing() -> None:
    run = the_run()
    finish(run)
    assert publish([run]) == [run]
    before = run.artifact_path.stat().st_mtime_ns
    assert publish([run]) == []
    assert run.artifact_path.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("file", "old", "new", "title", "why"),
    [
        (
            "experiments/demo/generation_functions.py",
            "True",
            "False",
            "stale (policy changed)",
            "",
        ),
        ("tasks/words.yaml", "{{q}}", "Q: {{q}}", "stale (task changed)", ""),
        ("models/tiny/model.safetensors", "weights", "others!", "stale (model changed)", ""),
        (
            "workflow_config.yaml",
            "threshold: 0.9",
            "threshold: 0.8",
            "stale",
            "decoding.threshold 0.9 -> 0.8",
        ),
    ],
)
@pytest.mark.usefixtures("project")
def test_status_says_what_made_a_result_stale(
    file: str, old: str, new: str, title: str, why: str
) -> None:
    run = load_project().runs[0]
    finish(run)
    edit(file, old, new)
    status = inspect(load_project().runs[0])
    assert (status.title, status.why) == (title, why)
    line = f"{title}  demo/words/k1_first" + (f": {why}" if why else "")
    assert line in as_text([status], "", [], color=False).splitlines()
