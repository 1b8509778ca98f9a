"""Who is always right has all points of the two embedded tasks, who says nothing none."""

from __future__ import annotations

import pytest

from fastdllm.common.errors import UserError
from tests.support.shipped_tasks import ROOT, Item, outcome

pytestmark = pytest.mark.slow  # two processes import lm-eval


def right(item: Item) -> str | int:
    return item.target if item.choices else f"#### {item.target}"


def silent(item: Item) -> str | int:
    return 0 if item.choices else ""


@pytest.mark.parametrize("task", ["word_problems", "choice_problems"])
def test_the_right_answers_have_all_points(task: str) -> None:
    scored = outcome(task, None, right, limit=40)
    assert scored.score == 1.0
    assert len(scored.samples) == 40


def test_no_answer_has_no_point() -> None:
    scored = outcome("word_problems", None, silent, limit=10)
    assert scored.metrics == {"exact_match,final-number": 0.0}


def test_one_option_for_all_has_the_points_of_that_option() -> None:
    scored = outcome("choice_problems", None, silent, limit=40)
    firsts = sum(sample["target"] in (0, "0") for sample in scored.samples)
    assert scored.score == firsts / 40


def test_what_is_wrong_with_a_task_is_raised_here() -> None:
    with pytest.raises(UserError, match=r"tasks/data/gone: no such folder|unknown task"):
        outcome("gone", None, right, tasks=ROOT / "tasks")
