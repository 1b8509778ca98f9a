"""Items that are there twice, and values that would print otherwise than their file has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
from datasets import Dataset

from fastdllm.common.errors import UserError
from fastdllm.tasks.lm_eval_models import Collect
from fastdllm.tasks.lm_eval_setup import lm_eval_environment
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
    other_answer = json.dumps(json.loads(lines[1]) | {"answer": "9"}) + "\n"
    SUMS.write_text("".join([*lines, lines[0], other_answer]))
    assert make_plan_on_disk().header.n_items == 12
    (notice,) = (line for line in capsys.readouterr().err.splitlines() if "fastdllm: " in line)
    assert "line 11: task 'sums', item 10: has the question" in notice
    assert "line 1: task 'sums', item 0; 1 of 12 items are such repeats" in notice
    assert "1 of 11 items are such repeats" in make_plan_on_disk(limit=11).header.notices[0]
    assert make_plan_on_disk(limit=10).header.notices == []


def test_the_first_two_items_may_be_equal_under_a_limit(make_plan_on_disk: Any) -> None:
    lines = SUMS.read_text().splitlines(keepends=True)
    SUMS.write_text("".join([lines[0], *lines]))
    assert make_plan_on_disk(limit=2).header.n_items == 2


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
    result = evaluate_task(Collect(tokenizer), task, limit=None, apply_chat_template=False)
    (metric,) = metrics_of(result, result["samples"], task)
    assert (metric.value, metric.n, metric.interval_method) == (0.25, 4, "wilson")


def test_a_correlation_is_no_share(make_plan_on_disk: Any) -> None:
    edit("tasks/choices.yaml", "metric: acc, aggregation: mean", "metric: mcc")
    with pytest.raises(UserError, match="primary metric 'mcc,none' is no share of 1"):
        make_plan_on_disk("choices")


def write_answers(*texts: str) -> None:
    """Write items whose answers are these texts of JSON."""
    lines = [f'{{"question": "q{i}", "answer": {text}}}\n' for i, text in enumerate(texts)]
    SUMS.write_text("".join(lines))


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("true", "True"),
        ("0.00001", "1e-05"),
        ("2.50", "2.5"),
        ("1e5", "100000.0"),
        ("0.1234567890123456789", "0.12345678901234568"),
    ],
)
@pytest.mark.parametrize("template", ["answer", "'{{answer}}'", "'{{[answer]|first}}'"])
def test_a_value_that_prints_otherwise_than_its_file_has_it_is_refused(
    text: str, becomes: str, template: str
) -> None:
    edit("tasks/sums.yaml", 'doc_to_target: "{{answer}}"', f"doc_to_target: {template}")
    write_answers("1.5", text)
    with pytest.raises(UserError) as caught:
        load_task("sums")
    assert str(caught.value) == (
        f"tasks/data/sums.jsonl, line 2: task 'sums', item 1: column 'answer' is {text} in the "
        f"data, which becomes {becomes}, and doc_to_target prints it; write it as text"
    )


@pytest.mark.parametrize("text", ["true", "0.00001", "2.50"])
def test_a_value_within_a_list_is_found_as_well(text: str) -> None:
    edit("tasks/sums.yaml", '"{{answer}}"', '"{{answer[1]}}"')
    write_answers("[1, 2]", f"[1, {text}]")
    with pytest.raises(UserError, match=f"item 1: column 'answer' holds {text} in the data"):
        load_task("sums")


@pytest.mark.parametrize(
    ("texts", "template"),
    [
        (("93.0", "2.5"), "{{answer}}"),
        (("true", "false"), "{{'True' if answer else 'False'}}"),
        (("true", "false"), "{{answer|string|lower}}"),
        (("2.50", "3.10"), "{{'%.2f' % answer}}"),
        (("2.50", "true"), "{{question}}"),
    ],
)
def test_values_that_print_as_written_or_not_at_all_pass(
    texts: tuple[str, ...], template: str
) -> None:
    edit("tasks/sums.yaml", '"{{answer}}"', f'"{template}"')
    write_answers(*texts)
    load_task("sums")


def test_a_scorer_of_the_task_may_read_what_would_print_otherwise() -> None:
    Path("tasks/own.py").write_text("def score(doc, results):\n    return {'exact_match': 1.0}\n")
    write_answers("true", "false")
    edit("tasks/sums.yaml", "test_split:", "process_results: !function own.score\ntest_split:")
    load_task("sums")
    edit("tasks/sums.yaml", '"{{question}}"', '"{{question}} {{answer}}"')
    with pytest.raises(UserError, match=r"is true in the data, .* doc_to_text prints it"):
        load_task("sums")


def test_a_folder_of_csv_is_refused() -> None:
    Path("folder").mkdir()
    Path("folder/test.csv").write_text("question,answer\nq,007\nr,2.50\n")
    edit("tasks/sums.yaml", "dataset_path: json", "dataset_path: folder")
    edit("tasks/sums.yaml", "dataset_kwargs: {data_files: {test: tasks/data/sums.jsonl}}\n", "")
    with pytest.raises(UserError, match="folder: values of a folder's csv files may become others"):
        load_task("sums")


@pytest.mark.parametrize("place", ["tasks/data/sums.parquet", "folder/test.parquet"])
def test_narrow_numbers_that_print_with_more_digits_are_refused(place: str) -> None:
    old = "dataset_path: json\ndataset_kwargs: {data_files: {test: tasks/data/sums.jsonl}}\n"
    data_files = f"dataset_path: parquet\ndataset_kwargs: {{data_files: {{test: {place}}}}}\n"
    in_folder = place.startswith("folder")
    edit("tasks/sums.yaml", old, "dataset_path: folder\n" if in_folder else data_files)
    Path("folder").mkdir()
    columns = {"question": ["q", "r"], "answer": numpy.array([2.5, 0.5], numpy.float32)}
    with lm_eval_environment(offline=True, private_cache=True):
        Dataset.from_dict(columns).to_parquet(place)
        load_task("sums")
        columns["answer"] = numpy.array([2.5, 0.1], numpy.float32)
        Dataset.from_dict(columns).to_parquet(place)
        with pytest.raises(UserError, match=r"item 1: .* is 0\.1 in the .* becomes 0\.10000000149"):
            load_task("sums")
        columns["answer"] = numpy.array([2.5, 0.1], numpy.float64)
        Dataset.from_dict(columns).to_parquet(place)
        load_task("sums")


@pytest.mark.parametrize("blank", ["", " \t"])
def test_an_item_whose_question_is_empty_is_refused(blank: str) -> None:
    edit("tasks/sums.yaml", '"{{question}}"', '"Question: {{question}} Answer:"')
    records = [{"question": text, "context": "", "answer": "1"} for text in ("q", blank)]
    SUMS.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(UserError) as caught:
        load_task("sums")
    assert str(caught.value) == (
        "tasks/data/sums.jsonl, line 2: task 'sums', item 1: column 'question' is empty, and "
        "doc_to_text prints nothing else of it; complete the data, or leave the item out"
    )


@pytest.mark.parametrize(
    "template", ["{{input}} {{n}}", "{{input}} {{inner.text}}", "{{input}} {{answer}}", "Say 1."]
)
def test_an_empty_column_beside_others_passes(template: str) -> None:
    edit("tasks/sums.yaml", '"{{question}}"', f'"{template}"')
    record = {"question": "", "input": "", "n": 1, "inner": {"text": "x"}, "answer": "1"}
    SUMS.write_text((json.dumps(record) + "\n") * 2)
    load_task("sums")
