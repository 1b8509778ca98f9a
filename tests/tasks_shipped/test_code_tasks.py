"""humaneval and mbpp: right code passes in any form, silence does not, and rows are checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastdllm.common.errors import UserError
from tests.support.shipped_tasks import DATA, Answerer, Item, needs_data, outcome

pytestmark = pytest.mark.slow

LIMIT = 16
PRIMARY = "pass@1,sandbox"
ROWS = {
    "humaneval": {
        "task_id": "HumanEval/0",
        "prompt": "def one():\n    '''Return 1.'''\n",
        "entry_point": "one",
        "canonical_solution": "    return 1\n",
        "test": "def check(candidate):\n    assert candidate() == 1\n",
    },
    "mbpp": {
        "task_id": 11,
        "text": "Write a function that returns 1.",
        "code": "def one():\n    return 1",
        "test_setup_code": "",
        "test_list": ["assert one() == 1"],
        "challenge_test_list": [],
    },
}
FILES = {"humaneval": "HumanEval.jsonl", "mbpp": "mbpp.jsonl"}


def solution(item: Item) -> str:
    if item.task == "mbpp":
        return str(item.doc["code"])
    return f"{item.doc['prompt']}{item.doc['canonical_solution']}"


def body(item: Item) -> str:
    return str(item.doc["canonical_solution"])


def fenced(item: Item) -> str:
    return f"Of course!\n\n```python\n{solution(item)}\n```\n\nUse it so:\n```\nprint(1)\n```\n"


def chatty(item: Item) -> str:
    code = solution(item).replace("\r\n", "\n").rstrip()
    return f"Here is what you asked for:\n\n{code}\n\nIt goes through all cases.\n"


def silent(_: Item) -> str:
    return ""


def write_rows(folder: Path, task: str, *rows: dict[str, object]) -> Path:
    (folder / FILES[task]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize(
    ("task", "forms"),
    [
        pytest.param("humaneval", (body, fenced), marks=needs_data("humaneval")),
        pytest.param("mbpp", (fenced, chatty), marks=needs_data("mbpp")),
    ],
)
def test_right_code_scores_100_percent(task: str, forms: tuple[Answerer, Answerer]) -> None:
    """In either form: every second item has the other."""
    scored = outcome(task, DATA / task, lambda item: forms[item.index % 2](item), limit=LIMIT)
    assert scored.primary == PRIMARY
    failed = [s["parsed"] for s in scored.samples if s["parsed"]["outcome"] != "passed"]
    all_right = {PRIMARY: 1.0, "code_found,sandbox": 1.0, "timeout,sandbox": 0.0}
    assert scored.metrics == all_right, failed
    assert [len(scored.samples), scored.plan.header.notices] == [LIMIT, []]


def silence(task: str, n: int) -> list[dict[str, Any]]:
    """Return the samples of all items, none of which is answered."""
    scored = outcome(task, DATA / task, silent)
    assert set(scored.metrics.values()) == {0.0}
    assert len(scored.samples) == n
    assert {sample["parsed"]["outcome"] for sample in scored.samples} == {"no code"}
    return scored.samples


@needs_data("humaneval")
def test_humaneval_is_asked_as_evalplus_asks_it_and_silence_scores_nothing() -> None:
    sample, *_ = silence("humaneval", 164)
    user = sample["prompt"].rpartition("<|im_start|>user\n")[2]
    asked, _, rest = user.partition("\n```\nfrom typing import List\n\n\ndef has_close_elements(")
    assert asked == (
        "Please provide a self-contained Python script that solves the following problem in a "
        "markdown code block:"
    )
    assert rest.endswith('    True\n    """\n```\n<|im_end|>\n<|im_start|>assistant\n')
    assert sample["target"].endswith("\ncheck(has_close_elements)\n")


@needs_data("mbpp")
def test_mbpp_shows_the_tests_of_its_test_set_and_silence_scores_nothing() -> None:
    samples = silence("mbpp", 500)
    user = samples[0]["prompt"].rpartition("<|im_start|>user\n")[2]
    assert user == (
        "You are an expert Python programmer, and here is your task:\nWrite a python function to "
        "remove first and last occurrence of a given character from the string.\nYour code should "
        'pass these tests:\nassert remove_Occ("hello","l") == "heo"\n'
        'assert remove_Occ("abcda","a") == "bcd"\nassert remove_Occ("PHP","P") == "H"'
        "<|im_end|>\n<|im_start|>assistant\n"
    )
    rows = [json.loads(line) for line in (DATA / "mbpp/mbpp.jsonl").open(encoding="utf-8")]
    texts = [row["text"] for row in rows if 11 <= row["task_id"] <= 510]
    assert all(text in s["prompt"] for text, s in zip(texts, samples, strict=True))


@pytest.mark.parametrize(
    ("task", "code", "reason"),
    [
        ("humaneval", "def one():\n    return 2", "AssertionError:"),
        ("mbpp", "def one():\n    import os\n    os._exit(0)", "ended before its tests"),
    ],
)
def test_code_that_fails_says_why(tmp_path: Path, task: str, code: str, reason: str) -> None:
    second = json.loads(json.dumps(ROWS[task]).replace("one", "two").replace("11", "12"))
    data = write_rows(tmp_path, task, ROWS[task], second)
    scored = outcome(task, data, lambda item: fenced(item) if item.index else f"```\n{code}\n```")
    assert scored.metrics[PRIMARY] == 0.5
    first, second = scored.samples
    assert [first["correct"], second["correct"]] == [False, True]
    assert first["parsed"]["reason"].startswith(reason)
    assert first["parsed"]["code"].strip() == code


@pytest.mark.parametrize(
    ("task", "changes", "says"),
    [
        ("humaneval", {"prompt": "def two():\n"}, "its prompt does not begin the function 'one'"),
        ("humaneval", {"prompt": " "}, "its prompt does not begin the function 'one'"),
        ("humaneval", {"test": None}, "column 'test' is None"),
        ("mbpp", {"text": None}, "column 'text' is None"),
        ("mbpp", {"test_list": []}, "its test_list calls no function"),
        ("mbpp", {"test_list": ["assert one( == 1"]}, "not valid Python"),
    ],
)
def test_a_row_that_cannot_be_asked_or_tested_is_named(
    tmp_path: Path, task: str, changes: dict[str, object], says: str
) -> None:
    data = write_rows(tmp_path, task, ROWS[task], ROWS[task] | changes)
    with pytest.raises(UserError, match=says):
        outcome(task, data, silent)


def test_rows_of_no_test_set_are_no_items(tmp_path: Path) -> None:
    data = write_rows(tmp_path, "mbpp", ROWS["mbpp"] | {"task_id": 601})
    with pytest.raises(UserError, match="no item of the test set, task_id 11 to 510"):
        outcome("mbpp", data, silent)
