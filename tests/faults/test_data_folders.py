"""`data:` of a task in workflow_config.yaml: where its files are, and no part of the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fastdllm.cli import main
from fastdllm.runs.spec import read_spec
from fastdllm.tasks.task_files import find_task_files
from fastdllm.tasks.task_source import TaskSource
from fastdllm.tools.doctor.installation import look_at_model
from fastdllm.workflow.project.config_files import load_workflow_config
from fastdllm.workflow.project.digests import FileDigests, check_sources
from fastdllm.workflow.project.runs import load_project
from tests.support.run_project import CHOICES_YAML, SUMS_YAML

TASK, OWN = Path("tasks/sums.yaml"), Path("own")
FILES = "{data_files: {test: tasks/data/sums.jsonl}}"
IN_FOLDER = "{data_dir: tasks/data/sums, data_files: {test: test.jsonl}}"
SOURCE = "source: {repo: lab/sums, files: {test.jsonl: test}}, "

pytestmark = pytest.mark.usefixtures("in_folder")


@pytest.fixture
def in_folder(project: Path) -> None:
    """Sums reads test.jsonl of a folder that is not there; the same file is in the folder `own`."""
    TASK.write_text(SUMS_YAML.replace(FILES, IN_FOLDER))
    OWN.mkdir()
    (project / "tasks/data/sums.jsonl").rename(OWN / "test.jsonl")


def configure(data: str | Path) -> None:
    path = Path("workflow_config.yaml")
    path.write_text(path.read_text().replace("sums: {", f"sums: {{data: {data}, ", 1))


def plan(capsys: pytest.CaptureFixture[str]) -> str:
    """Plan the task; returns what is wrong, in one line, or nothing."""
    code, err = main(["plan", "--task", "sums"]), capsys.readouterr().err
    lines = [line for line in err.split("\n") if line.startswith("fastdllm: ")]
    assert len(lines) == (code != 0)
    return "".join(lines)


def fingerprints() -> list[str]:
    return [run.fingerprint for run in load_project().all_runs]


def test_data_of_a_folder_is_planned_and_scored(capsys: pytest.CaptureFixture[str]) -> None:
    configure(OWN)
    assert plan(capsys) == ""
    run = next(run for run in load_project().all_runs if run.task == "sums")
    run.folder.mkdir(parents=True)
    run.spec_path.write_text(json.dumps(run.spec()))
    assert main(["eval", str(run.spec_path)]) == 0
    assert run.summary_path.exists()
    (OWN / "test.jsonl").write_text('{"question": "q", "answer": "1"}\n')
    with pytest.raises(Exception, match="changed since the run was planned"):
        check_sources(read_spec(run.spec_path), FileDigests())


def test_where_the_data_is_does_not_count_but_what_is_in_it_does(tmp_path: Path) -> None:
    shutil.copytree(OWN, "tasks/data/sums")
    as_in_the_task = fingerprints()
    configure(tmp_path / "own")
    assert fingerprints() == as_in_the_task
    (OWN / "test.jsonl").write_text('{"question": "q", "answer": "1"}\n')
    assert fingerprints() != as_in_the_task


def test_the_home_folder_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    configure("~/own")
    assert len(fingerprints()) == 2


def test_all_subtasks_read_the_folder() -> None:
    (OWN / "more.jsonl").write_text('{"question": "q", "answer": "1"}\n')
    more = SUMS_YAML.replace("task: sums", "task: more")
    folder = Path("tasks/both")
    folder.mkdir()
    (folder / "more.yaml").write_text(more.replace(FILES, IN_FOLDER.replace("test.j", "more.j")))
    Path("tasks/both.yaml").write_text("group: both\ntask: [sums, more]\n")
    files = find_task_files(TaskSource(Path("tasks/both.yaml"), "own"))
    assert files.data == (("test.jsonl", OWN / "test.jsonl"), ("more.jsonl", OWN / "more.jsonl"))


@pytest.mark.parametrize(
    ("task", "data", "says"),
    [
        (IN_FOLDER, "gone", "workflow_config.yaml: tasks.sums.data: gone: no such folder"),
        (FILES, "own", "workflow_config.yaml: tasks.sums.data: has no effect on task 'sums'"),
        ("{}", "own", "workflow_config.yaml: tasks.sums.data: has no effect on task 'sums'"),
        (IN_FOLDER, "''", "workflow_config.yaml: tasks.sums.data: '' is not allowed"),
        (IN_FOLDER, "3", "workflow_config.yaml: tasks.sums.data: 3 is not allowed"),
        (IN_FOLDER, "tasks", "data_files: test.jsonl: no such file; a path starts at tasks"),
    ],
)
def test_a_folder_that_cannot_be_meant_is_one_line(
    capsys: pytest.CaptureFixture[str], task: str, data: str, says: str
) -> None:
    TASK.write_text(SUMS_YAML.replace(FILES, task))
    configure(data)
    assert says in plan(capsys)


def test_files_without_items_are_named_with_their_folder(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (OWN / "test.jsonl").write_text("")
    configure(OWN)
    assert "its data has no items; check data_files {'test': 'test.jsonl'} in own" in plan(capsys)


def test_one_folder_does_not_stand_for_several(capsys: pytest.CaptureFixture[str]) -> None:
    other = CHOICES_YAML.replace("data_files: {test: ", "data_dir: other, data_files: {test: ")
    Path("tasks/choices.yaml").write_text(other)
    TASK.write_text("group: sums\ntask: [one, choices]\n")
    one = SUMS_YAML.replace(FILES, IN_FOLDER).replace("task: sums", "task: one")
    Path("tasks/one.yaml").write_text(one)
    configure(OWN)
    assert "one folder cannot replace those of all subtasks (tasks/data/sums, other)" in plan(
        capsys
    )


def test_a_file_that_is_not_here_is_named_with_both_ways_to_have_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    TASK.write_text(TASK.read_text().replace("{version: 1, ", "{version: 1, " + SOURCE))
    assert plan(capsys) == (
        "fastdllm: task 'sums': tasks/data/sums/test.jsonl: no such file; on a node with network: "
        "fastdllm fetch --task sums, or name the folder that has it in workflow_config.yaml "
        "(tasks: sums: data: ...)"
    )


def test_a_file_that_a_named_folder_lacks_is_not_said_to_be_fetched_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    TASK.write_text(TASK.read_text().replace("{version: 1, ", "{version: 1, " + SOURCE))
    configure("tasks")
    assert plan(capsys) == (
        "fastdllm: task 'sums': tasks/test.jsonl: no such file in the folder that `data` names; "
        "name the one that has it, or leave `data` out and type, on a node with network: "
        "fastdllm fetch --task sums"
    )


def test_the_doctor_says_it_once() -> None:
    TASK.write_text(TASK.read_text().replace("{version: 1, ", "{version: 1, " + SOURCE))
    (found,) = look_at_model(load_workflow_config())
    assert found.name == "data"
    assert found.text == "task 'sums': tasks/data/sums/test.jsonl: no such file"
    assert found.fix.startswith("on a node with network: fastdllm fetch --task sums, or name")
