"""Who is always right has all points of the embedded tasks; what all task files must have."""

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
from tasks.multi_step_problems import steps_right
from tests.support.shipped_tasks import ROOT, Item, outcome

FILES = sorted((ROOT / "tasks").glob("*.yaml"))


def right(item: Item) -> str | int:
    return item.target if item.choices else f"#### {item.target}"


def silent(item: Item) -> str | int:
    return 0 if item.choices else ""


@pytest.mark.slow  # two processes import lm-eval
@pytest.mark.parametrize(
    "task",
    ["word_problems", "word_problems_confirm", "multi_step_problems_tune", "choice_problems"],
)
def test_the_right_answers_have_all_points(task: str) -> None:
    scored = outcome(task, None, right, limit=40)
    assert scored.score == 1.0
    assert len(scored.samples) == 40


@pytest.mark.slow
def test_no_answer_has_no_point() -> None:
    scored = outcome("word_problems", None, silent, limit=10)
    assert scored.metrics == {"exact_match,final-number": 0.0}


@pytest.mark.slow
def test_steps_count_apart_from_the_number_at_the_end() -> None:
    counts = []

    def last_step_wrong(item: Item) -> str:
        counts.append(item.doc["steps"])
        before, _, after = item.doc["answer"].rpartition("=")
        return f"{before}=0{after.lstrip('0123456789')}"

    task = "multi_step_problems"
    whole = outcome(task, None, lambda item: item.doc["answer"], limit=40).metrics
    assert whole == {"exact_match,final-number": 1.0, "steps_right,calculations": 1.0}
    assert not any(outcome(task, None, silent, limit=10).metrics.values())
    scored = outcome(task, None, last_step_wrong, limit=40)
    assert scored.primary == "exact_match,final-number"
    assert scored.score == 1.0
    expected = sum((count - 1) / count for count in counts) / 40
    assert scored.metrics["steps_right,calculations"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("given", "share"),
    [
        (["52+27=79", "79-9=70"], 1),
        (["79-9=70", "52+27=79"], 1),
        (["52+27=79"], 1 / 2),
        (["52+27=78", "78-9=69"], 0),  # the second is right, and of no use
        (["52+27=79", "79-9=70", "2*35=70"], 2 / 3),
        (["52+27=79", "52+27=79"], 1 / 2),
        ([], 0),
    ],
)
def test_a_step_is_right_if_the_reference_has_it(given: list[str], share: float) -> None:
    reference = "He has 52 pens. Now he has 52+27=79 pens. Now he has 79-9=70 pens.\n#### 70"
    assert steps_right(reference, given) == share


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
