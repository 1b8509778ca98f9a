"""Options that are equally likely, and options that a metric weighs: what counts as chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastdllm.runs.answer_records import Answer
from fastdllm.runs.scoring import Scores, score_answers
from fastdllm.tasks.lm_eval_tasks import load_task


def scored(
    make_plan: Any, tokenizer: Any, *, options: str, metric: str, likely: dict[str, float]
) -> Scores:
    """Score the items, of which the options 0, 1, 2 are right in turn, by given likelihoods."""
    path = Path("tasks/choices.yaml")
    head, _, _ = path.read_text().partition("metric_list:")
    head = head.replace('["A", "B", "C"]', options)
    path.write_text(
        f"{head}metric_list: [{{metric: {metric}, aggregation: mean, higher_is_better: true}}]\n"
    )
    plan = make_plan("choices")
    answers = []
    for index in range(len(plan.header.chunks)):
        for request in plan.chunk(index):
            text = request.args[1].strip()
            answers.append(Answer(id=request.id, logprob=likely[text], is_greedy=False))
    task = load_task("choices")
    return score_answers(plan, answers, tokenizer=tokenizer, task=task, bootstrap_iters=0)


@pytest.mark.parametrize(
    ("metric", "likely", "chosen"),
    [
        ("acc", {"A": -2.0, "BBBB": -4.0, "ÄÄ": -4.0}, "A"),
        ("acc_norm", {"A": -2.0, "BBBB": -6.0, "ÄÄ": -4.0}, "BBBB"),
        ("acc_bytes", {"A": -2.0, "BBBB": -6.0, "ÄÄ": -4.0}, "ÄÄ"),
    ],
)
@pytest.mark.usefixtures("project")
def test_the_answer_shown_is_the_option_that_the_metric_takes(
    make_plan_on_disk: Any, tokenizer: Any, metric: str, likely: dict[str, float], chosen: str
) -> None:
    options = '[A, BBBB, "ÄÄ"]'
    scores = scored(make_plan_on_disk, tokenizer, options=options, metric=metric, likely=likely)
    texts = ["A", "BBBB", "ÄÄ"]
    assert {sample["answer"].strip() for sample in scores.samples} == {chosen}
    right = [texts[number % 3] == chosen for number in range(8)]
    assert [sample["correct"] for sample in scores.samples] == right
