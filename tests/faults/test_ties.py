"""Options that are equally likely, and options that a metric weighs: what counts as chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastdllm.records.summary import Summary
from fastdllm.report.content import build_report
from fastdllm.report.groups import grouped
from fastdllm.report.page import render_page
from fastdllm.report.text_tables import terminal_table
from fastdllm.runs.answer_records import Answer
from fastdllm.runs.scoring import Scores, score_answers
from fastdllm.statistics.comparison import compare
from fastdllm.statistics.comparison_text import comparison_text
from fastdllm.statistics.ties import is_tied
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
    ("options", "likely", "ties"),
    [
        ("[A, B, C]", {"A": -1.0, "B": -1.0, "C": -2.0}, 6),  # where A or B is right
        ("[A, B, C]", {"A": -1.0, "B": -2.0, "C": -2.0}, 0),
        ("[A, B, C]", {"A": 0.0, "B": 0.0, "C": 0.0}, 8),
        ("[A, B, C]", {"A": -1.0, "B": -1.000001, "C": -2.0}, 0),
        ("[A, B, B, C]", {"A": -2.0, "B": -1.0, "C": -3.0}, 0),  # equal options are one
    ],
)
@pytest.mark.usefixtures("project")
def test_items_that_the_order_of_options_decides_are_counted(
    make_plan_on_disk: Any, tokenizer: Any, options: str, likely: dict[str, float], ties: int
) -> None:
    scores = scored(make_plan_on_disk, tokenizer, options=options, metric="acc", likely=likely)
    assert scores.tied_items == ties


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


@pytest.mark.parametrize(("tied", "marked"), [(None, False), (8, False), (9, True)])
def test_more_than_two_per_cent_are_marked(
    a_summary: Summary, tied: int | None, *, marked: bool
) -> None:
    (metric,) = a_summary.metrics
    metrics = [metric.model_copy(update={"n": 400})]
    likelihoods = {"passes": None, "truncation_rate": None, "metrics": metrics}
    first = a_summary.model_copy(update={**likelihoods, "config": "k2_last"})
    run = first.model_copy(update={"config": "k1_first", "tied_items": tied})
    assert is_tied(run) is marked
    table = terminal_table(grouped([run, first]))
    assert ("80.0!" in table) is marked
    assert ("! 1 of 2 runs with more than 2 % of the items decided by the order" in table) is marked
    assert ("decided 9 of 400 items" in comparison_text(compare(run, first), "")) is marked
    page = render_page(build_report([run, first]))
    assert ('<span class="mark">tied options</span>' in page) is marked
    assert ("(9 of 400 items): the first option counts as chosen" in page) is marked
