"""Columns that a template takes for something else than their author meant."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from fastdllm.cli import main
from fastdllm.common.errors import UserError
from tests.support.small_project import edit

pytestmark = pytest.mark.usefixtures("project")
TASK = "tasks/sums.yaml"
DATA = Path("tasks/data/sums.jsonl")

Plan = Callable[..., Any]


def write(kind: str, target: str, **columns: list[Any]) -> None:
    """Write a file of a kind with these columns, and doc_to_target."""
    columns = {"question": [f"Question {i}?" for i in range(len(columns["answer"]))]} | columns
    if kind == "parquet":
        Dataset.from_dict(columns).to_parquet(DATA)
    else:
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        with DATA.open("w", newline="") as stream:
            if kind == "csv":
                csv.writer(stream).writerows([columns, *(row.values() for row in rows)])
            else:
                stream.writelines(json.dumps(row) + "\n" for row in rows)
    edit(TASK, r"(\\d)", "(?s)(.*)")  # the whole answer counts
    edit(TASK, "dataset_path: json", f"dataset_path: {kind}")
    edit(TASK, 'doc_to_target: "{{answer}}"', f"doc_to_target: {target}")


def process_docs(body: str) -> None:
    Path("tasks/own.py").write_text(f"import datasets\n\n\ndef process(docs):\n    return {body}\n")
    edit(TASK, "test_split:", "process_docs: !function own.process\ntest_split:")


def notices(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("fastdllm: ")]


@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
@pytest.mark.parametrize("target", ['"{{answer}}"', "answer"])
def test_whole_numbers_that_print_as_fractions_are_refused(
    make_plan_on_disk: Plan, kind: str, target: str
) -> None:
    write(kind, target, answer=[93.0, 5.0, 6.0])
    with pytest.raises(UserError) as caught:
        make_plan_on_disk()
    place = {"json": f"{DATA}, line 1: ", "csv": f"{DATA}, row 2: ", "parquet": ""}[kind]
    assert str(caught.value) == (
        f"{place}task 'sums', item 0: column 'answer' has 93.0, which is whole like all numbers "
        "there, and doc_to_target prints it; write 93 in the data, or say in the template what is "
        "meant: {{ answer|int }} or {{ '%.1f'|format(answer) }}"
    )


def test_a_prompt_and_a_list_may_print_them_as_well(make_plan_on_disk: Plan) -> None:
    write("json", '"{{parts[0]}}"', answer=[1, 2], parts=[[1.0, 4.0], [2.0]])
    with pytest.raises(
        UserError, match=r"item 0: column 'parts' has 1\.0, .* doc_to_target prints"
    ):
        make_plan_on_disk()
    edit(TASK, "{{parts[0]}}", "{{answer}}")
    edit(TASK, '"{{question}}"', '"{{question}} {{parts}}"')
    with pytest.raises(UserError, match=r"item 0: column 'parts' has 1\.0, .* doc_to_text prints"):
        make_plan_on_disk()


@pytest.mark.parametrize(
    ("target", "answers"),
    [
        ("{{ answer|int }}", [93.0, 5.0]),
        ("{{ '%.1f'|format(answer) }}!", [93.0, 5.0]),
        ("{{ '%.2f' % answer }}", [93.0, 5.0]),
        ("{{ 'many' if answer > 9 else 'few' }}", [93.0, 5.0]),
        ("{{ answer }}", [93.0, 2.5]),
        ("{{ answer }}", [93, 2.5, 7, 12]),
    ],
)
def test_numbers_that_print_as_meant_are_taken(
    make_plan_on_disk: Plan, capsys: pytest.CaptureFixture[str], target: str, answers: list[Any]
) -> None:
    write("json", f'"{target}"', answer=answers)
    make_plan_on_disk()
    assert notices(capsys) == []


def test_targets_of_which_most_are_whole_are_named(
    make_plan_on_disk: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    write("parquet", '"{{answer}}"', answer=[2.5, 93.0, 7.0])
    make_plan_on_disk()
    (line,) = notices(capsys)
    assert "item 1: column 'answer' has 93.0, which is whole like most numbers there" in line


@pytest.mark.parametrize(
    "body",
    [
        "docs.map(lambda doc: {'target': doc['answer']})",
        "datasets.Dataset.from_list([doc | {'target': doc['answer']} for doc in docs])",
        "datasets.Dataset.from_pandas(docs.to_pandas().assign(target=docs['answer']))",
        "docs.map(lambda doc: {'target': doc['answer'] / 2})",
    ],
)
def test_whole_numbers_that_process_docs_makes_fractions_are_refused(
    make_plan_on_disk: Plan, body: str
) -> None:
    write("json", '"{{target}}"', answer=[94, 2.5, 8, 1.5, 0.5])
    process_docs(body)
    with pytest.raises(
        UserError, match=r"has (94|47)\.0, which stands so in no file, but comes from"
    ):
        make_plan_on_disk()


def test_fractions_that_process_docs_leaves_are_taken(
    make_plan_on_disk: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    write("json", '"{{target}}"', answer=[94.0, 2.5])
    process_docs("docs.map(lambda doc: {'target': doc['answer']})")
    make_plan_on_disk()
    assert notices(capsys) == []


LISTS = {
    "json": ['["a", "b"]', '["c", "d"]'],
    "python": ["['a', 'b']", "['c', 'd']"],
    "numpy": ["['a' 'b']", "['c'\n 'd']"],
}


@pytest.mark.parametrize("kind", ["csv", "json"])
@pytest.mark.parametrize("lists", LISTS.values(), ids=LISTS)
@pytest.mark.parametrize(
    "template",
    ["A. {{choices[0]}}", "{% for c in choices %}{{c}} {% endfor %}", "{{choices|join(', ')}}"],
)
def test_letters_of_a_text_are_not_taken_for_parts_of_a_list(
    make_plan_on_disk: Plan, kind: str, lists: list[str], template: str
) -> None:
    write(kind, '"{{answer}}"', answer=["x", "y"], choices=lists)
    edit(TASK, '"{{question}}"', f'"{{{{question}}}} {template}"')
    with pytest.raises(UserError) as caught:
        make_plan_on_disk()
    assert f"item 0: column 'choices' is the text {lists[0]!r}, and doc_to_text " in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("template", "values"),
    [
        ("{{choices}}", LISTS["json"]),
        ("{{choices|trim}} {{choices|string}}", LISTS["json"]),
        ("{{choices.split(',')[0]}}", LISTS["json"]),
        ("{{choices[0]}}", ["[a]", "b"]),
        ("{{choices[0]}}", ["ab", "cd"]),
    ],
)
def test_texts_that_a_template_takes_as_texts_pass(
    make_plan_on_disk: Plan, template: str, values: list[str]
) -> None:
    write("csv", '"{{answer}}"', answer=["x", "y"], choices=values)
    edit(TASK, '"{{question}}"', f'"{{{{question}}}} {template}"')
    make_plan_on_disk()


@pytest.mark.parametrize(
    ("target", "named"),
    [
        ("{{ answer|join(', ') }}", 1),
        ("{% for part in answer %}{{part}}{% endfor %}", 1),
        ("{{ answer|trim|upper }}{{ answer[:2] }}{{ answer.split()|join }}{{ answer|length }}", 0),
    ],
)
def test_letters_that_a_template_takes_one_by_one_are_named(
    make_plan_on_disk: Plan, capsys: pytest.CaptureFixture[str], target: str, named: int
) -> None:
    write("json", f'"{target}"', answer=["Paris", "Rome"])
    make_plan_on_disk()
    lines = notices(capsys)
    assert len(lines) == named
    assert all("takes each letter of the text in column 'answer', 'Paris'" in s for s in lines)


def test_a_text_beside_lists_is_no_list(make_plan_on_disk: Plan) -> None:
    write("json", '"{{answer[0]}}"', answer=[["Paris"], "Berlin", ["Rome", "Roma"]])
    with pytest.raises(
        UserError, match=r"line 2: .*column 'answer' is the text 'Berlin', and doc_to_t"
    ):
        make_plan_on_disk()


def test_lists_that_process_docs_reads_from_texts_are_lists(make_plan_on_disk: Plan) -> None:
    write("csv", '"{{answer}}"', answer=["x", "y"], choices=LISTS["json"])
    edit(TASK, '"{{question}}"', '"{{question}} {{options[0]}}"')
    process_docs("docs.map(lambda doc: {'options': __import__('json').loads(doc['choices'])})")
    plan = make_plan_on_disk()
    assert "Question 0? a" in plan.requests[0].args[0]


@pytest.mark.parametrize(
    "target",
    ["{{ 'yes' if flag == 1 else 'no' }}", "{{ flag + flag }}", "{{ 'no' if not flag else flag }}"],
)
def test_numbers_that_are_texts_for_another_value_beside_them_are_refused(
    make_plan_on_disk: Plan, target: str
) -> None:
    write("csv", f'"{target}"', answer=["1", "2", "3"], flag=["NA", "0", "1"])
    with pytest.raises(
        UserError, match=r"row [34]: .* doc_to_target would give something else if "
    ):
        make_plan_on_disk()


@pytest.mark.parametrize(
    "target",
    [
        "{{ 'yes' if flag|int(0) == 1 else 'no' }}",
        "{{ 'a' if flag|string == '1' else 'b' }}",
        "{{flag}}",
    ],
)
def test_numbers_that_a_template_takes_as_texts_or_converts_pass(
    make_plan_on_disk: Plan, target: str
) -> None:
    write("csv", f'"{target}"', answer=["1", "2", "3"], flag=["NA", "0", "1"])
    make_plan_on_disk()


@pytest.mark.parametrize("kind", ["csv", "json"])
@pytest.mark.parametrize("text", ["1,000", "about 4", "", "nan"])
def test_texts_that_a_template_would_make_0_are_refused(
    make_plan_on_disk: Plan, kind: str, text: str
) -> None:
    write(kind, '"{{ answer|int + 1 }}"', answer=["3.7", text])
    with pytest.raises(
        UserError, match=f"item 1: column 'answer' is '{text}', of which int or float"
    ):
        make_plan_on_disk()
    edit(TASK, "answer|int", "answer|int(5)")
    make_plan_on_disk()
    edit(TASK, "{{ answer|int(5) + 1 }}", "{{ answer|int if answer|string == '3.7' else 'none' }}")
    make_plan_on_disk()


def test_an_empty_cell_is_no_target(make_plan_on_disk: Plan) -> None:
    write("csv", '"{{answer}}"', answer=["a", "", "c"])
    with pytest.raises(
        UserError, match="row 3: task 'sums', item 1: its target is empty, as a cell"
    ):
        make_plan_on_disk()


@pytest.mark.parametrize("target", ["{{ answer / 2 }}", "{{ answer|float }}"])
def test_targets_that_all_end_with_0_are_named(
    make_plan_on_disk: Plan, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    write("json", f'"{target}"', answer=[2, 4, 6])
    make_plan_on_disk()
    (line,) = notices(capsys)
    assert "every target, such as '" in line and "is a whole number with .0, as division" in line


def test_small_numbers_of_parquet_that_print_with_an_exponent_are_refused(
    make_plan_on_disk: Plan,
) -> None:
    write("parquet", '"{{answer}}"', answer=[0.00001, 0.5])
    with pytest.raises(
        UserError, match=r"is 0\.00001 in the data, which becomes 1e-05, and doc_to_t"
    ):
        make_plan_on_disk()


def test_two_tasks_of_a_group_that_ask_the_same_are_named(
    make_plan_on_disk: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    write("json", '"{{answer}}"', answer=["a", "b"])
    Path("tasks/more.yaml").write_text(Path(TASK).read_text().replace("task: sums", "task: more"))
    Path("tasks/both.yaml").write_text(
        "group: both\ntask: [sums, more]\naggregate_metric_list:\n"
        "  - {metric: exact_match, aggregation: mean, filter_list: number}\n"
    )
    make_plan_on_disk("both")
    (line,) = notices(capsys)
    assert "tasks 'sums' and 'more': 2 items of both have the same question" in line


def test_the_command_line_says_it_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    write("json", '"{{answer}}"', answer=[93.0, 5.0])
    assert main(["plan", "--task", "sums"]) == 2
    (line,) = notices(capsys)
    assert "column 'answer' has 93.0" in line
    assert not Path("results/_plans/sums/plan.json").exists()


def options(*lists: list[str]) -> None:
    """Write items that show the first three texts of a list."""
    write("json", '"{{answer}}"', answer=list(range(len(lists))), options=list(lists))
    edit(TASK, '"{{question}}"', '"{{question}} {{options[0]}} {{options[1]}} {{options[2]}}"')


def test_a_text_that_few_items_lack_is_named(
    make_plan_on_disk: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    options(*[["a", "b", f"c{i}"] for i in range(28)], ["a", " ", "c"], ["", "b", "c"])
    make_plan_on_disk()
    (line,) = notices(capsys)
    assert line == (
        f"fastdllm: {DATA}, line 29: task 'sums', item 28: a text in column 'options' is empty; so "
        "are 1 more items"
    )


def test_empty_texts_that_no_template_shows_are_taken(
    make_plan_on_disk: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    options(*[["a", "b", f"c{i}", "" if i == 3 else "d"] for i in range(30)])
    make_plan_on_disk()
    assert notices(capsys) == []


def test_texts_that_many_items_lack_are_taken(
    make_plan_on_disk: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    options(*[["a", "b", f"c{i}" if i > 3 else "", "d"] for i in range(30)])
    make_plan_on_disk()
    assert notices(capsys) == []


def test_a_part_of_a_list_that_is_not_shown_is_named(
    make_plan_on_disk: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    options(["a", "b", "c"], ["d", "e", "f", "g"], ["h", "i", "j"])
    make_plan_on_disk()
    (line,) = notices(capsys)
    assert line.endswith(
        "item 1: column 'options' has 4 values, of which only 3 are shown, as many as other items "
        "have"
    )
