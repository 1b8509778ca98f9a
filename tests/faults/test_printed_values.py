"""Items that are there twice, and values that would print otherwise than their file has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastdllm.common.errors import UserError
from fastdllm.tasks.lm_eval_models import Collect
from fastdllm.tasks.lm_eval_tasks import evaluate_task, load_task
from fastdllm.tasks.metrics import metrics_of
from tests.support.small_project import edit

pytestmark = pytest.mark.usefixtures("project")
SUMS = Path("tasks/data/sums.jsonl")


def test_a_copy_of_a_file_beside_it_is_refused(make_plan_on_disk: Any) -> None:
    SUMS.with_name("sums (1).jsonl").write_text(SUMS.read_text())
    edit("tasks/sums.yaml", "tasks/data/sums.jsonl", '"tasks/data/sums*.jsonl"')
    with pytest.raises(UserError) as caught:
        make_plan_on_disk()
    first, second = str(caught.value).split(" has the question, options and target of ")
    assert first == "tasks/data/sums.jsonl, line 1: task 'sums', item 10:"
    assert second == (
        "tasks/data/sums (1).jsonl, line 1: task 'sums', item 0; 10 of 20 items are such repeats, "
        "which would count as independent; remove copies of files, or name the files of data_files "
        "one by one"
    )


def test_a_few_items_that_are_there_twice_are_named(
    make_plan_on_disk: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = SUMS.read_text().splitlines(keepends=True)
    other_answer = json.dumps(json.loads(lines[1]) | {"answer": "another"}) + "\n"
    SUMS.write_text("".join([*lines, lines[0], other_answer]))
    assert make_plan_on_disk().header.n_items == 12
    (notice,) = (line for line in capsys.readouterr().err.splitlines() if "fastdllm: " in line)
    assert "line 11: task 'sums', item 10: has the question" in notice
    assert "line 1: task 'sums', item 0; 1 of 12 items are such repeats" in notice


def test_items_that_a_scorer_of_the_task_tells_apart_are_no_repeats(make_plan_on_disk: Any) -> None:
    records = [{"question": "Name a number.", "answer": "", "seed": i} for i in range(4)]
    SUMS.write_text("".join(json.dumps(record) + "\n" for record in records))
    Path("tasks/own.py").write_text("def score(doc, results):\n    return {'exact_match': 1.0}\n")
    with pytest.raises(UserError):
        make_plan_on_disk()
    edit("tasks/sums.yaml", "test_split:", "process_results: !function own.score\ntest_split:")
    assert make_plan_on_disk().header.n_items == 4


def test_items_that_nanmean_leaves_out_are_not_counted(tokenizer: Any) -> None:
    Path("tasks/own.py").write_text(
        "def score(doc, results):\n"
        "    left_out = int(doc['answer']) < 6\n"
        "    return {'exact_match': float('nan') if left_out else float(doc['answer'] == '9')}\n"
    )
    edit("tasks/sums.yaml", "aggregation: mean", "aggregation: nanmean")
    edit("tasks/sums.yaml", "test_split:", "process_results: !function own.score\ntest_split:")
    task = load_task("sums")
    result = evaluate_task(
        Collect(tokenizer), task, limit=None, num_fewshot=None, apply_chat_template=False
    )
    (metric,) = metrics_of(result, result["samples"], task)
    assert (metric.value, metric.n, metric.interval_method) == (0.25, 4, "wilson")


def test_a_correlation_is_no_share(make_plan_on_disk: Any) -> None:
    edit("tasks/choices.yaml", "metric: acc, aggregation: mean", "metric: mcc")
    with pytest.raises(UserError, match="primary metric 'mcc,none' is no share of 1"):
        make_plan_on_disk("choices")
