"""Who is always right has all points of the two embedded tasks; what all task files must have."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

import pytest

from fastdllm.common.errors import UserError
from fastdllm.tasks.data_files import texts
from fastdllm.tasks.task_files import Folder
from fastdllm.tasks.task_metadata import hub_files, own_options
from fastdllm.tasks.task_source import TaskSource
from fastdllm.workflow.project.config_files import TaskOptions
from tests.support.shipped_tasks import ROOT, Item, outcome

FILES = sorted((ROOT / "tasks").glob("*.yaml"))


def right(item: Item) -> str | int:
    return item.target if item.choices else f"#### {item.target}"


def silent(item: Item) -> str | int:
    return 0 if item.choices else ""


@pytest.mark.slow  # two processes import lm-eval
@pytest.mark.parametrize("task", ["word_problems", "choice_problems"])
def test_the_right_answers_have_all_points(task: str) -> None:
    scored = outcome(task, None, right, limit=40)
    assert scored.score == 1.0
    assert len(scored.samples) == 40


@pytest.mark.slow
def test_no_answer_has_no_point() -> None:
    scored = outcome("word_problems", None, silent, limit=10)
    assert scored.metrics == {"exact_match,final-number": 0.0}


@pytest.mark.slow
def test_one_option_for_all_has_the_points_of_that_option() -> None:
    scored = outcome("choice_problems", None, silent, limit=40)
    firsts = sum(sample["target"] in (0, "0") for sample in scored.samples)
    assert scored.score == firsts / 40


@pytest.mark.slow
def test_what_is_wrong_with_a_task_is_raised_here() -> None:
    with pytest.raises(UserError, match=r"tasks/data/gone: no such folder|unknown task"):
        outcome("gone", None, right, tasks=ROOT / "tasks")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_workflow_config_has_a_line_for_every_task(file: Path) -> None:
    """Its name alone is enough, where it is commented out."""
    text = (ROOT / "workflow_config.yaml").read_text()
    assert re.search(rf"^  (# )?{file.stem}:( +#.*)?$", text, flags=re.MULTILINE)
    if f"  # {file.stem}:" in text:
        TaskOptions(**own_options(TaskSource(file)))
        assert "apply_chat_template" in own_options(TaskSource(file))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_fetch_writes_every_file_that_a_task_reads(file: Path) -> None:
    source = TaskSource(file)
    written = hub_files(source)
    for _, task in Folder(file.parent).single_tasks(file):
        if "source" in task.get("metadata", {}):
            folder = task["dataset_kwargs"]["data_dir"]
            for name in texts(task["dataset_kwargs"]["data_files"]):
                assert any(fnmatch.fnmatch(str(path), f"{folder}/{name}") for path in written)
