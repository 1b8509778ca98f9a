"""The file of a task says what workflow_config.yaml need not; a task is enabled by one word."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastdllm.cli import main
from fastdllm.common.errors import UserError
from fastdllm.workflow.project.config_files import (
    TaskOptions,
    load_workflow_config,
    with_task,
)
from fastdllm.workflow.project.runs import load_project
from fastdllm.workflow.project.selection import Selection
from tests.support.run_project import SUMS_YAML
from tests.support.small_project import edit

SUMS = Path("tasks/sums.yaml")
CONFIG = Path("workflow_config.yaml")

pytestmark = pytest.mark.usefixtures("project")


def say(options: str, task: Path = SUMS) -> None:
    """Write `metadata.options` into the file of a task."""
    edit(task, "metadata: {", f"metadata: {{options: {options}, ")


def enable(task: str) -> None:
    """Write no more than the name of one task."""
    text = CONFIG.read_text()
    start, end = text.index("tasks:\n"), text.index("bootstrap")
    CONFIG.write_text(f"{text[:start]}tasks:\n  {task}\n{text[end:]}")


def fingerprints() -> list[str]:
    return [run.fingerprint for run in load_project().all_runs]


def test_one_word_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    enable("sums:")
    assert main(["plan", "--task", "sums"]) == 2
    assert "give the task apply_chat_template" in capsys.readouterr().err
    say("{apply_chat_template: true, chunk_size: 3}")
    assert main(["plan", "--task", "sums"]) == 0
    assert "10 items, 10 requests in 4 chunks" in capsys.readouterr().out


def test_workflow_config_wins() -> None:
    say("{apply_chat_template: false, chunk_size: 7, num_fewshot: 2}")
    enable("sums: {apply_chat_template: true, num_fewshot: null}")
    expected = TaskOptions(apply_chat_template=True, chunk_size=7, num_fewshot=None)
    assert load_workflow_config().task_options("sums") == expected


def test_where_an_option_stands_does_not_count() -> None:
    enable("sums: {apply_chat_template: true, chunk_size: 3}")
    there = fingerprints()
    say("{apply_chat_template: true, chunk_size: 3, group: 4}")
    enable("sums:")
    assert fingerprints() == there
    edit(SUMS, "chunk_size: 3", "chunk_size: 4")
    assert fingerprints() != there


def test_a_group_says_it_itself_or_all_its_subtasks_do() -> None:
    one = SUMS_YAML.replace("task: sums", "task: one")
    Path("tasks/one.yaml").write_text(one)
    SUMS.write_text("group: sums\ntask: [one, choices]\n")
    for task in ("one", "choices"):
        say("{chunk_size: 9}", Path(f"tasks/{task}.yaml"))
    enable("sums:")
    assert load_workflow_config().task_options("sums") == TaskOptions(chunk_size=9)
    edit("tasks/one.yaml", "chunk_size: 9", "chunk_size: 8")
    with pytest.raises(UserError, match=r"different metadata.options; give the group its own"):
        load_workflow_config()
    SUMS.write_text(SUMS.read_text() + "metadata: {options: {chunk_size: 5}}\n")
    assert load_workflow_config().task_options("sums") == TaskOptions(chunk_size=5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("{chunksize: 3}", "unknown key 'chunksize'; did you mean 'chunk_size'?"),
        ("{chunk_size: 0}", "chunk_size: 0 is not allowed"),
        ("[chunk_size]", "expected keys and values, got list"),
    ],
)
def test_options_are_checked_like_those_of_workflow_config(options: str, says: str) -> None:
    say(options)
    with pytest.raises(UserError) as refused:
        load_workflow_config()
    assert str(refused.value).startswith("tasks/sums.yaml: metadata.options: ")
    assert says in str(refused.value)


def test_options_that_contradict_those_given_are_refused() -> None:
    say("{shards: 2}")
    enable("sums: {group: 2}")
    with pytest.raises(UserError, match=r"^workflow_config.yaml: tasks.sums: shards and group"):
        load_workflow_config()


def test_a_task_that_is_not_enabled_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    enable("choices: {apply_chat_template: true}")
    say("{apply_chat_template: true, chunk_size: 5}")
    assert main(["plan", "--task", "sums"]) == 0
    assert "in 2 chunks" in capsys.readouterr().out
    config = load_workflow_config()
    assert with_task(config, "choices") is config


def test_what_to_do_about_a_task_that_is_not_enabled_is_said() -> None:
    enable("choices:")
    with pytest.raises(UserError) as refused:
        load_project(Selection(tasks=("sums",)))
    assert str(refused.value) == (
        "selection: task 'sums' is not enabled (only choices); write `sums:` under tasks: in "
        "workflow_config.yaml"
    )
    edit("experiments/trial/experiment.yaml", "config_name", "tasks: [sums]\nconfig_name")
    with pytest.raises(UserError, match=r"experiment.yaml: tasks: task 'sums' is not enabled"):
        load_project()


def test_a_task_beside_tasks_is_said_to_belong_under_it() -> None:
    CONFIG.write_text(CONFIG.read_text() + "\nsums:\n")
    with pytest.raises(UserError, match=r"'sums' is a task; indent its line to stand under tasks:"):
        load_workflow_config()


@pytest.mark.parametrize("place", ["config", "selection", "plan"])
def test_a_task_that_is_none_is_named_with_those_there_are(
    capsys: pytest.CaptureFixture[str], place: str
) -> None:
    if place == "config":
        enable("sum:")
    if place == "plan":
        assert main(["plan", "--task", "sum"]) == 2
        line = capsys.readouterr().err
    else:
        with pytest.raises(UserError) as refused:
            load_project(Selection(tasks=("sum",)))
        line = str(refused.value)
    assert "unknown task 'sum'; did you mean 'sums'? valid: choices, sums" in line
    assert "(any other task of lm-eval: fastdllm new-task sum; see tasks/README.md)" in line
