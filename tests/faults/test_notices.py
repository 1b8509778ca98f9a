"""What is named and not refused reaches the people who read figures, not only a log."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from fastdllm.cli import main
from fastdllm.records.summary import MAX_BYTES, Summary, read_summary, write_summary
from fastdllm.report.content import build_report
from fastdllm.report.groups import grouped
from fastdllm.report.page import render_page
from fastdllm.report.sentences import answer_of
from fastdllm.report.text_tables import terminal_table
from fastdllm.runs.summarize import MOST_NOTICES
from fastdllm.statistics.comparison import compare
from fastdllm.statistics.comparison_text import comparison_text
from fastdllm.tasks.plan import read_plan, write_plan
from fastdllm.workflow.project.runs import load_project
from fastdllm.workflow.reconcile import reconcile
from tests.support.small_project import edit

SUMS = Path("tasks/data/sums.jsonl")
PLAN = Path("results/_plans/sums")
REPEAT = (
    "tasks/data/sums.jsonl, line 11: task 'sums', item 10: has the question, options and target of "
    "tasks/data/sums.jsonl, line 1: task 'sums', item 0; 1 of 11 items are such repeats, and count "
    "as independent"
)


def repeat_an_item() -> None:
    SUMS.write_text(SUMS.read_text() + SUMS.read_text().splitlines()[0] + "\n")


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def text(*words: str) -> str:
        capsys.readouterr()
        assert main(list(words)) == 0
        return capsys.readouterr().out

    return text


@pytest.mark.usefixtures("project")
def test_a_repeated_item_is_named_from_its_plan_to_the_published_table(
    shown: Callable[..., str],
) -> None:
    edit("workflow_config.yaml", "  choices: {chunk_size: 6, apply_chat_template: true}\n", "")
    repeat_an_item()
    reconcile(load_project())
    assert "noticed" not in shown("status")
    shown("plan", "--task", "sums")
    assert read_plan(PLAN, "sums").header.notices == [REPEAT]
    assert f"\nnoticed in sums: {REPEAT}\n" in shown("status")
    assert json.loads(shown("status", "--json"))["notices"] == {"sums": [REPEAT]}

    (run,) = load_project().runs
    shown("eval", str(run.spec_path))
    assert read_summary(run.summary_path).notices == [REPEAT]
    assert f"Named, not refused: {REPEAT}." in shown("table")
    shown("aggregate")
    shutil.rmtree("results")  # as in a clone on another machine
    assert f"\n- Named, not refused: {REPEAT}.\n" in Path("artifacts/trial/table.md").read_text()
    assert f"\nnoticed in sums: {REPEAT}\n" in shown("status")


@pytest.mark.usefixtures("project")
def test_a_plan_of_earlier_data_says_nothing_about_the_new(shown: Callable[..., str]) -> None:
    items = SUMS.read_text()
    repeat_an_item()
    shown("plan", "--task", "sums")
    assert "noticed in sums" in shown("status")
    SUMS.write_text(items)
    assert "noticed" not in shown("status")


def test_other_words_are_the_same_plan(make_plan_on_disk: Any) -> None:
    plan = make_plan_on_disk()
    other = replace(plan, header=plan.header.model_copy(update={"notices": ["other words"]}))
    assert (other.digest, other.items_digest) == (plan.digest, plan.items_digest)
    write_plan(PLAN, other, made_from="{}\n")
    assert read_plan(PLAN, "sums") == other
    earlier = json.loads((PLAN / "plan.json").read_text())
    del earlier["notices"]  # as plans were before they held any
    (PLAN / "plan.json").write_text(json.dumps(earlier))
    assert read_plan(PLAN, "sums").header.notices == []


@pytest.mark.parametrize("n", [MOST_NOTICES, MOST_NOTICES + 1])
def test_a_summary_has_the_first_of_many(make_plan_on_disk: Any, make_spec: Any, n: int) -> None:
    plan, lines = make_plan_on_disk(), [f"remark {i}" for i in range(n)]
    header = plan.header.model_copy(update={"notices": lines})
    write_plan(PLAN, replace(plan, header=header), made_from="{}\n")
    spec = make_spec()
    assert main(["eval", str(spec)]) == 0
    found = read_summary(spec.with_name("summary.json")).notices
    more = [*lines[: MOST_NOTICES - 1], "2 more such remarks about the items"]
    assert found == (lines if n == MOST_NOTICES else more)


def test_a_head_that_the_config_ties_stands_in_the_summary(
    make_plan_on_disk: Any, make_spec: Any, model_folder: Path
) -> None:
    make_plan_on_disk()
    files = [model_folder / name for name in ("config.json", "model.safetensors")]
    stored = [file.readlink() for file in files]
    config, weights = json.loads(files[0].read_text()), load_file(files[1])
    for file in files:
        file.unlink()
    try:
        files[0].write_text(json.dumps(config | {"tie_word_embeddings": True}))
        save_file(weights, files[1])
        spec = make_spec()
        assert main(["eval", str(spec)]) == 0
    finally:
        for file, target in zip(files, stored, strict=True):
            file.unlink()
            file.symlink_to(target)
    assert read_summary(spec.with_name("summary.json")).notices == [
        "the model has an lm_head.weight of its own, which is used; config.json ties it"
    ]


def test_what_was_named_is_shown_with_the_figures(a_summary: Summary) -> None:
    odd = {"notices": ["item 3 is odd"], "weights_left_alone": ["a.pt", "b.pt", "c.pt", "d.pt"]}
    first = a_summary.model_copy(update={"config": "k1_first"})
    runs = [first, *(a_summary.model_copy(update={**odd, "config": c}) for c in ("k2", "k3"))]
    item = "Named, not refused: item 3 is odd."
    files = (
        "Named, not refused: files beside the weights that were not read: a.pt, b.pt, c.pt and 1 "
        "more."
    )
    texts = [
        terminal_table(grouped(runs)),
        render_page(build_report(runs)),
        answer_of("00_baseline", runs, []),
        " ".join(comparison_text(compare(first, runs[1]), "").split()),
    ]
    for text in texts:
        assert (text.count(item), text.count(files)) == (1, 1)
    assert "Named" not in terminal_table(grouped([first]))


def test_a_summary_without_room_for_them_leaves_them_out(
    a_summary: Summary, tmp_path: Path
) -> None:
    path = tmp_path / "summary.json"
    write_summary(path, a_summary.model_copy(update={"notices": ["x" * MAX_BYTES]}))
    assert read_summary(path) == a_summary


@pytest.mark.parametrize("is_applied", [True, False])
def test_which_chat_template_counts_stands_in_a_plan_that_applies_it(
    project: Path, model_folder: Path, capsys: pytest.CaptureFixture[str], *, is_applied: bool
) -> None:
    folder = shutil.copytree(model_folder, project / "model")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    other = {**config, "chat_template": "{{ messages[0].content }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(other))
    edit("workflow_config.yaml", str(model_folder), "model")
    edit(
        "workflow_config.yaml",
        "3, apply_chat_template: true",
        f"3, apply_chat_template: {is_applied}",
    )
    assert main(["plan", "--task", "sums"]) == 0
    lines = read_plan(PLAN, "sums").header.notices
    said = "model: the chat template in tokenizer_config.json is not used"
    assert [line.startswith(said) for line in lines] == [True] * is_applied
    err = capsys.readouterr().err.splitlines()
    shown = [line for line in err if line.startswith("fastdllm: ")]
    assert shown == [f"fastdllm: {line}" for line in lines]
