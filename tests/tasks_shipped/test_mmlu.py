"""mmlu: the questions of 57 subjects, each behind five examples; the likeliest letter is chosen."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from fastdllm.common.errors import UserError
from fastdllm.common.yaml_files import read_yaml_mapping
from fastdllm.tasks.local_tasks import compiled
from fastdllm.tasks.task_files import find_task_files
from fastdllm.tasks.task_source import TaskSource
from fastdllm.workflow.project.computations import is_likelihood_task
from tests.support.shipped_tasks import DATA, ROOT, Item, needs_data, outcome

TASK = read_yaml_mapping(ROOT / "tasks/mmlu.yaml", what="a task")
SUBJECTS = {
    leaf["task"].removeprefix("mmlu_"): category["group"]
    for category in TASK["task"]
    for leaf in category["task"]
}
OF_LM_EVAL = Path(str(files("lm_eval"))) / "tasks/mmlu/default"
Change = Callable[[dict[str, Any]], dict[str, Any]]
CATEGORIES = ("stem", "humanities", "social_sciences", "other")


def write_rows(folder: Path, of_subject: int) -> Path:
    """Write the first questions of each subject as the files of the task."""
    for split, most in (("dev", 5), ("test", of_subject)):
        (folder / split).mkdir()
        for subject in SUBJECTS:
            name = f"{split}/{subject}.jsonl"
            lines = (DATA / "mmlu" / name).read_text("utf-8").splitlines(keepends=True)
            (folder / name).write_text("".join(lines[:most]), encoding="utf-8")
    return folder


def test_subjects_and_texts_are_those_of_lm_eval() -> None:
    loader = type("Loader", (yaml.SafeLoader,), {})
    theirs = [yaml.load(f.read_text(), loader) for f in OF_LM_EVAL.glob("mmlu_*.yaml")]
    assert len(SUBJECTS) == len(theirs) == 57
    for subject in theirs:
        name = subject["dataset_name"]
        assert f"{SUBJECTS[name]}_tasks" == subject["tag"]
        described = compiled(TASK["description"]).render(subject=name)
        assert described == subject["description"]
    common = yaml.safe_load((OF_LM_EVAL / "_default_template_yaml").read_text())
    for key in ("doc_to_text", "doc_to_choice", "doc_to_target", "fewshot_config", "metric_list"):
        assert TASK[key] == common[key], key


@needs_data("mmlu")
def test_nothing_of_it_is_generated() -> None:
    """So configurations that differ in decoding only are one computation."""
    source = TaskSource(ROOT / "tasks/mmlu.yaml", data=str(DATA / "mmlu"))
    assert is_likelihood_task(find_task_files(source))


@pytest.mark.slow
@needs_data("mmlu")
def test_who_is_always_right_has_all_points_in_all_subjects(tmp_path: Path) -> None:
    scored = outcome("mmlu", write_rows(tmp_path, 2), lambda item: item.target)
    assert scored.metrics == {"acc,none": 1.0}
    assert scored.group_results == dict.fromkeys([*SUBJECTS, *CATEGORIES], 1.0)
    assert len(scored.samples) == 57 * 2 and scored.tied == 0
    for sample in scored.samples:
        turns = sample["prompt"].split("<|im_start|>")[1:]
        assert [turn.split("\n")[0] for turn in turns] == ["system", *["user", "assistant"] * 6]
        assert [turn for turn in turns[2:-1:2] if turn[10:] not in ANSWERS] == []
    assert {option["text"] for option in scored.samples[0]["options"]} == set("ABCD")


ANSWERS = [f"{letter}<|im_end|>\n" for letter in "ABCD"]


@pytest.mark.slow
@needs_data("mmlu")
def test_who_says_nothing_has_the_share_of_first_options(tmp_path: Path) -> None:
    """All letters are equally likely, so the first one counts as chosen, and all items as tied."""
    scored = outcome("mmlu", write_rows(tmp_path, 2), silent)
    firsts = sum(sample["target"] in (0, "0") for sample in scored.samples)
    assert scored.score == pytest.approx(firsts / (57 * 2), abs=1e-6)
    assert scored.tied == 57 * 2


def silent(_: Item) -> str:
    return ""


def without(column: str) -> Change:
    return lambda row: {key: value for key, value in row.items() if key != column}


@pytest.mark.slow
@needs_data("mmlu")
@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("test", without("choices"), "line 1: a template of task .* 'choices' is undefined; colu"),
        ("test", without("subject"), "line 1: .* item 0: description fails: .*'subject' is undefi"),
        ("test", lambda row: {**row, "choices": row["choices"][:3]}, "line 1: .* has no element 3"),
        ("test", lambda row: {**row, "answer": 4}, "line 1: .* label 4 is none of its 4 options"),
        ("dev", without("answer"), "line 1: .* example 0: doc_to_target fails: KeyError: 'answer'"),
        ("dev", lambda row: {**row, "choices": ["A"]}, "line 1: .* example 0: cannot be written"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, file: str, change: Change, says: str) -> None:
    path = write_rows(tmp_path, 2) / f"{file}/virology.jsonl"
    rows = [change(json.loads(line)) for line in path.read_text("utf-8").splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(UserError, match=rf"^{path}, {says}"):
        outcome("mmlu", tmp_path, silent)


@pytest.mark.slow
@needs_data("mmlu")
def test_a_file_of_another_subject_and_missing_questions_are_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path, 1) / "test/virology.jsonl"
    path.write_text((tmp_path / "test/anatomy.jsonl").read_text("utf-8"), encoding="utf-8")
    about, number, *others = outcome("mmlu", tmp_path, silent).plan.header.notices
    assert about.startswith(f"{path}, line 1: task 'mmlu_virology', item 0: its description 'The f")
    assert "about anatomy.' is not that of its examples, 'The following are" in about
    assert "'mmlu_anatomy' and 'mmlu_virology': 1 items of both" in number
    assert [line[:68] for line in others] == [
        "task 'mmlu': its data has 57 items, and the published data 14042; ch"
    ]
