"""gpqa: four options in an order that never changes, on questions of our own in GPQA's columns."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from importlib import import_module, reload
from pathlib import Path

import pytest
from datasets import Dataset

from fastdllm.common.errors import UserError
from fastdllm.tasks.task_files import find_task_files
from fastdllm.tasks.task_source import TaskSource
from fastdllm.workflow.project.computations import is_likelihood_task
from tasks.gpqa import QUESTION, RIGHT, WRONG, with_options
from tests.support.shipped_tasks import ROOT, Item, outcome

Row = dict[str, str]
# Columns of the published file that nothing reads stand among the others, and so do here.
COLUMNS = ("Pre-Revision Question", QUESTION, RIGHT, *WRONG, "Subdomain", "Record ID")
KINDS = {
    # All options are numbers, so that those columns hold no texts.
    "numbers": lambda n: [str(n * n), str(n + n), str(n + 2), str(n - 1)],
    "fractions": lambda n: [f"{n}.50", f"{n}.5e3", "nan", "007"],
    "words": lambda n: [f"the heart, {n}", ' "quoted"\n', f"a  [title]b {n}", "True"],
}


def rows_of(kind: str, count: int = 66) -> list[Row]:
    """Questions by rule; of the kind "all" each is of another kind."""
    rows = []
    for n in range(3, count + 3):
        of_row = list(KINDS)[n % 3] if kind == "all" else kind
        answers = KINDS[of_row](n)
        asked = f"Which of these belongs to {n}?\nThink of {of_row}, twice."
        cells = ["", asked, *answers, "Arithmetic", f"rec{n}"]
        rows.append(dict(zip(COLUMNS, cells, strict=True)))
    return rows


def write_rows(folder: Path, rows: list[Row], name: str = "gpqa_main") -> Path:
    with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def right(item: Item) -> int:
    """The option that is the right one of the question in the file."""
    number = int(item.doc[QUESTION].split("to ")[1].split("?")[0])
    (row,) = (row for row in rows_of("all") if f" {number}?" in row[QUESTION])
    options = [item.doc[f"choice{n}"] for n in (1, 2, 3, 4)]
    return options.index(row[RIGHT].strip())


@pytest.mark.slow
@pytest.mark.parametrize("task", ["gpqa", "gpqa_diamond"])
def test_who_is_always_right_has_all_points_in_cold_processes(tmp_path: Path, task: str) -> None:
    name = {"gpqa": "gpqa_main"}.get(task, task)
    rows = rows_of("all")
    scored = outcome(task, write_rows(tmp_path, rows, name), right)
    assert scored.metrics == {"acc,none": 1.0}
    assert len(scored.samples) == len(rows) == 66 and scored.tied == 0
    assert {sample["target"] for sample in scored.samples} == {"(A)", "(B)", "(C)", "(D)"}
    for row, sample in zip(rows, scored.samples, strict=True):
        assert f"\n{sample['target']} {row[RIGHT].strip()}\n" in sample["prompt"]
    first = scored.samples[0]["prompt"]
    system, user, assistant = first.split("<|im_start|>")[1:]
    assert system.startswith("system\nHere are some example questions from experts. Answer the fi")
    assert user.startswith("user\nQuestion: Which of these belongs to 3?\n")
    assert user.endswith("\nAnswer:<|im_end|>\n") and assistant == "assistant\n"


@pytest.mark.slow
def test_who_says_nothing_has_the_share_of_first_options(tmp_path: Path) -> None:
    scored = outcome("gpqa", write_rows(tmp_path, rows_of("all")), lambda _: "")
    firsts = sum(sample["target"] == "(A)" for sample in scored.samples)
    assert 0 < firsts < 33
    assert scored.score == pytest.approx(firsts / 66, abs=1e-6)
    assert scored.tied == 66


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_columns_of_numbers_are_asked_as_the_file_has_them(tmp_path: Path, kind: str) -> None:
    rows = rows_of(kind, 4)
    scored = outcome("gpqa", write_rows(tmp_path, rows), lambda _: 0)
    for row, sample in zip(rows, scored.samples, strict=True):
        printed = sample["prompt"].split("Choices:\n")[1].split("\nAnswer:")[0].split("\n")
        expected = [row[column].strip().replace("  [title]", " . ") for column in (RIGHT, *WRONG)]
        assert sorted(line[4:] for line in printed) == sorted(expected)


@pytest.mark.slow
def test_examples_are_other_questions(tmp_path: Path) -> None:
    scored = outcome("gpqa", write_rows(tmp_path, rows_of("all", 8)), right, num_fewshot=5)
    assert scored.score == 1.0
    for sample in scored.samples:
        assert sample["prompt"].count("<|im_start|>user") == 6
        asked = [turn for turn in sample["prompt"].split("\n") if "belongs to" in turn]
        assert len(set(asked)) == 6


@pytest.mark.parametrize("task", ["gpqa", "gpqa_diamond"])
def test_nothing_of_it_is_generated(tmp_path: Path, task: str) -> None:
    """So configurations that differ in decoding only are one computation."""
    for name in ("gpqa_main", "gpqa_diamond"):
        write_rows(tmp_path, rows_of("all", 4), name)
    source = TaskSource(ROOT / f"tasks/{task}.yaml", data=str(tmp_path))
    assert is_likelihood_task(find_task_files(source))


def test_options_have_the_order_that_lm_eval_draws_first() -> None:
    rows = Dataset.from_list(rows_of("words"))
    ours, again = with_options(rows), with_options(rows)
    assert ours.to_list() == again.to_list()
    theirs = reload(import_module("lm_eval.tasks.gpqa.n_shot.utils"))
    for one, other in zip(ours, map(theirs.process_docs(rows).__getitem__, range(66)), strict=True):
        assert one == {key: other[key] for key in one}
    assert len({item["answer"] for item in ours}) == 4


@pytest.mark.slow
def test_a_wrong_option_that_equals_the_right_one_is_counted_and_named(tmp_path: Path) -> None:
    rows = rows_of("all", 8)
    for n in (3, 6):
        rows[n][WRONG[1]] = f"{rows[n][RIGHT]} "
    rows[4][WRONG[1]] = rows[4][WRONG[0]]  # either is wrong
    scored = outcome("gpqa", write_rows(tmp_path, rows), right)
    options, sample = re.compile(r"\n(\(.\)) 36(?=\n)"), scored.samples[3]
    one, other = options.findall(sample["prompt"])
    assert sample["target"] == one
    assert scored.metrics == {"acc,none": 1.0} and len(scored.samples) == 8
    assert scored.plan.header.notices[0] == (
        f"{tmp_path / 'gpqa_main.csv'}, row 5: task 'gpqa', item 3: its options {one} and {other} "
        f"are the same text, and only {one} counts as right; 2 of 8 items have such options"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda row: {**row, RIGHT: " "}, ": task 'gpqa': row 2: column 'Correct Answer' is empty"),
        (lambda row: {**row, QUESTION: ""}, ": task 'gpqa': row 2: column 'Question' is empty"),
        (
            lambda row: {"Correct answer" if key == RIGHT else key: row[key] for key in row},
            ", row 2: a helper of task 'gpqa' asks for what is not there: 'Correct Answer'; colu",
        ),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, change: Callable[[Row], Row], says: str) -> None:
    write_rows(tmp_path, list(map(change, rows_of("all", 4))))
    with pytest.raises(UserError, match=f"^{tmp_path / 'gpqa_main.csv'}{says}"):
        outcome("gpqa", tmp_path, right)
