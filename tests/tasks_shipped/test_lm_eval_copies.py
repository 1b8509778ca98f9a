"""Tasks of lm-eval that are not shipped: copied by `fastdllm new-task`, then asked and scored.

Their data is made here, in the columns that the hub has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fastdllm.cli import main
from fastdllm.commands.new_task import write_copy
from fastdllm.common.errors import UserError
from fastdllm.common.yaml_files import read_yaml_mapping
from fastdllm.tasks.task_files import find_task_files
from fastdllm.tasks.task_metadata import hub_files
from fastdllm.tasks.task_source import TaskSource
from fastdllm.workflow.project.config_files import WorkflowConfig, with_task
from tests.support.shipped_tasks import Item, Outcome, outcome

Index = Mapping[str, Any]


@pytest.fixture(scope="module")
def index() -> Index:
    """Some of lm-eval's tasks; reading all takes seconds."""
    import lm_eval.tasks
    from lm_eval.tasks._index import TaskIndex

    names = ("arc", "hellaswag", "bbh/cot_fewshot", "drop", "lambada", "squadv2", "wikitext")
    return TaskIndex.build([Path(lm_eval.tasks.__file__).parent / name for name in names])


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks/data").mkdir(parents=True)
    return tmp_path


def new_task(name: str, index: Index) -> list[str]:
    """Copy a task into the project; return what is said of it."""
    from fastdllm.tasks.lm_eval_copies import copy_task

    copy = copy_task(name, index)
    write_copy(copy)
    return copy.notes


def write(task: str, rows: Mapping[str, list[dict[str, Any]]]) -> None:
    """Write the rows of each split to every file that the task takes from it."""
    for path, file in hub_files(TaskSource.named(task)).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        (split,) = file.splits
        path.write_text("".join(json.dumps(row) + "\n" for row in rows[split]))


def asked(task: str, here: Path) -> Outcome:
    """Ask the task, whose right answers are given."""

    def right(item: Item) -> str | int:
        if item.choices is not None:
            return int(item.target)
        return f"Let us see. So the answer is {item.doc['target']}."

    return outcome(task, None, right, tasks=here / "tasks")


def arc_rows(start: int) -> list[dict[str, Any]]:
    animals = ["cat", "dog", "fish", "owl", "newt"]
    return [
        {
            "id": f"M{i}",
            "question": f"Which of these has number {i}?",
            "choices": {
                "text": [f"the {animal} {i + j}" for j, animal in enumerate(animals[: 3 + i % 3])],
                "label": list("12345" if i % 2 else "ABCDE")[: 3 + i % 3],
            },
            "answerKey": ("123" if i % 2 else "ABC")[i % 3],
        }
        for i in range(start, start + 8)
    ]


def hellaswag_rows(start: int) -> list[dict[str, Any]]:
    return [
        {
            "ind": i,
            "activity_label": "Making tea",
            "ctx_a": f"Somebody boils {i} cups of water.",
            "ctx_b": "then she",
            "ctx": f"Somebody boils {i} cups of water. then she",
            "endings": [f"pours {i} [step] cups.", f"drinks {j}.", "sleeps.", f"sells {i}  pots."],
            "source_id": f"wikihow~{i}",
            "split": "val",
            "split_type": "indomain",
            "label": str(i % 4),
        }
        for i, j in zip(range(start, start + 8), range(8), strict=True)
    ]


@pytest.mark.slow
def test_a_task_of_options_scores_right_answers(index: Index, here: Path) -> None:
    assert new_task("arc_challenge", index)[0] == "metadata.primary_metric is acc,none"
    rows = {split: arc_rows(at) for at, split in enumerate(("train", "validation", "test"))}
    write("arc_challenge", rows)
    scored = asked("arc_challenge", here)
    assert scored.metrics == {"acc,none": 1.0, "acc_norm,none": 1.0}
    assert len(scored.samples) == 8


@pytest.mark.slow
def test_a_task_with_helpers_scores_right_answers(index: Index, here: Path) -> None:
    new_task("hellaswag", index)
    write("hellaswag", {"train": hellaswag_rows(0), "validation": hellaswag_rows(20)})
    scored = asked("hellaswag", here)
    assert scored.score == 1.0
    assert (
        scored.samples[0]["prompt"].count("Making tea: Somebody boils 20 cups of water. Then she")
        == 1
    )
    files = find_task_files(TaskSource.named("hellaswag"))
    assert files.helpers == (Path("tasks/hellaswag/utils.py"),)


@pytest.mark.slow
def test_a_group_scores_right_answers(index: Index, here: Path) -> None:
    new_task("bbh", index)
    targets = ("True", "(B)", "Yes", "12", "] )")
    rows = [{"input": f"What is {i}?", "target": target} for i, target in enumerate(targets)]
    write("bbh", {"test": rows})
    scored = asked("bbh", here)
    assert scored.primary == "exact_match,get-answer"
    assert scored.score == 1.0
    assert scored.group_results is not None
    assert len(scored.group_results) == 27
    assert len(scored.samples) == 27 * len(targets)


@pytest.mark.slow
def test_a_tag_is_a_group_of_its_tasks(index: Index, here: Path) -> None:
    new_task("ai2_arc", index)
    assert read_yaml_mapping(Path("tasks/ai2_arc.yaml"), what="")["task"] == [
        "arc_challenge",
        "arc_easy",
    ]
    rows = {split: arc_rows(at) for at, split in enumerate(("train", "validation", "test"))}
    write("ai2_arc", rows)
    scored = asked("ai2_arc", here)
    assert scored.metrics["acc,none"] == 1.0
    assert scored.group_results == {"arc_challenge": 1.0, "arc_easy": 1.0}


def test_a_group_in_a_group_is_copied_with_it(index: Index) -> None:
    from lm_eval.tasks._index import Entry, Kind

    file = Path("outer.yaml")
    file.write_text(
        "group: outer\ntask: [bbh_cot_fewshot, {task: arc_easy, num_fewshot: 2}]\n"
        "repeats: 3\naggregate_metric_list: [{metric: acc}]\n"
    )
    new_task("outer", {**index, "outer": Entry("outer", Kind.GROUP, file.absolute())})
    names = {path.stem for path in Path("tasks/outer").iterdir()}
    assert {"bbh_cot_fewshot", "bbh_cot_fewshot_navigate", "arc_easy"} <= names
    assert len(names) == 29
    leaf = read_yaml_mapping(Path("tasks/outer/arc_easy.yaml"), what="")
    assert (leaf["num_fewshot"], leaf["repeats"]) == (2, 3)
    folders = {path.parts[3] for path in hub_files(TaskSource.named("outer"))}
    assert {"ARC-Easy", "navigate"} <= folders
    assert len(folders) == 28


def test_what_lm_eval_leaves_to_its_models_is_written_down(index: Index) -> None:
    notes = new_task("drop", index)
    values = read_yaml_mapping(Path("tasks/drop.yaml"), what="")
    assert values["generation_kwargs"] == {"until": ["."], "max_gen_toks": 256}
    assert (
        "generation_kwargs.max_gen_toks is 256, as lm-eval's models take it; answers with "
        in notes[0]
    )
    assert values["process_results"] == {"!function": "drop.utils.process_results"}


def test_the_primary_metric_is_the_first_of_which_more_is_better(index: Index) -> None:
    assert new_task("lambada_openai", index)[0] == "metadata.primary_metric is acc,none"
    metrics = read_yaml_mapping(Path("tasks/lambada_openai.yaml"), what="")["metric_list"]
    assert [entry["metric"] for entry in metrics] == ["perplexity", "acc"]


@pytest.mark.slow
def test_a_task_without_metrics_has_those_of_lm_eval(here: Path) -> None:
    from lm_eval.tasks._index import Entry, Kind

    source = {"dataset_path": "owner/quiz", "output_type": "multiple_choice", "test_split": "test"}
    asks = {"doc_to_text": "{{q}}", "doc_to_choice": ["yes", "no"], "doc_to_target": "right"}
    file = here / "quiz.yaml"
    file.write_text(json.dumps({"task": "quiz", **source, **asks}))
    new_task("quiz", {"quiz": Entry("quiz", Kind.TASK, file)})
    write("quiz", {"test": [{"q": f"Is {i} even?", "right": i % 2} for i in range(4)]})
    assert asked("quiz", here).metrics == {"acc,none": 1.0, "acc_norm,none": 1.0}


def test_a_copied_task_is_enabled_by_one_word(index: Index) -> None:
    new_task("arc_easy", index)
    config = WorkflowConfig(model={}, experiments=["some"], tasks={"arc_easy": None})
    options = with_task(config.model_copy(update={"tasks": {}}), "arc_easy").task_options(
        "arc_easy"
    )
    assert options.apply_chat_template
    assert options.model_fields_set == {"apply_chat_template"}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "arc_chalenge",
            "lm-eval: unknown task 'arc_chalenge'; did you mean 'arc_challenge'? valid: a",
        ),
        ("squadv2", "task 'squadv2': is written in Python, and has no file to copy"),
        ("wikitext", "loglikelihood_rolling (perplexity of a text) has no meaning"),
    ],
)
def test_what_cannot_be_copied_is_one_line(index: Index, name: str, says: str) -> None:
    with pytest.raises(UserError) as refused:
        new_task(name, index)
    assert says in str(refused.value)
    assert sorted(Path("tasks").iterdir()) == [Path("tasks/data")]


def test_a_name_that_is_taken_stays_as_it_is(index: Index) -> None:
    Path("tasks/mine").mkdir()
    Path("tasks/mine/arc.yaml").write_text("task: arc_easy\n")
    for name in ("arc_easy", "ai2_arc"):
        with pytest.raises(UserError, match=r"tasks/mine/arc.yaml: has a task 'arc_easy' already"):
            new_task(name, index)
    assert {path.name for path in Path("tasks").iterdir()} == {"data", "mine"}


def test_the_command_says_what_to_do_next(
    index: Index, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fastdllm.tasks.lm_eval_copies.lm_eval_index", lambda: index)
    assert main(["new-task", "bbh"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("made tasks/bbh.yaml as in lm-eval 0.4")
    assert lines[1].endswith(", 28 tasks and groups")
    assert [line[:2] for line in lines[2:]] == ["1.", "2.", "3."]
    assert lines[3].endswith("on a node with network: fastdllm fetch --task bbh")
    assert main(["new-task", "bbh"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "fastdllm: tasks/bbh.yaml: has a task 'bbh' already; remove it first"
