"""Items whose right answer could never be scored as right, or that lm-eval would ask wrongly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from fastdllm.common.errors import UserError
from fastdllm.tasks.checks import labels
from fastdllm.tasks.checks.labels import LabelReader
from fastdllm.tasks.lm_eval_tasks import load_task
from fastdllm.tasks.pairs import PairEncoder
from tests.support.real_size_tokenizer import real_size_tokenizer
from tests.support.small_project import edit

pytestmark = pytest.mark.usefixtures("project")


def write_items(task: str, column: str, *values: Any) -> None:
    """Give the items of a task other values in one column, and as many items as values."""
    path = Path(f"tasks/data/{task}.jsonl")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    changed = [record | {column: value} for record, value in zip(records, values, strict=False)]
    path.write_text("".join(json.dumps(record) + "\n" for record in changed))


def targets(task: str) -> list[Any]:
    (leaf,) = load_task(task).leaves.values()
    return [leaf.doc_to_target(doc) for doc in leaf.eval_docs]


@pytest.mark.parametrize(
    ("template", "values", "says"),
    [
        ("answer", ["1", ["2"]], r"item 1: target \['2'\] is a list of right answers"),
        ("answer", [[], ["2"]], r"item 0: target \[\]"),
        ("answer", [["1"], [2]], r"item 1: target \[2\] would be a list of texts"),
        ("'{{answer}}'", ["1", "[1, 2]"], r"item 1: target \[1, 2\] would be a list of texts"),
        ("'{{answer}}'", ["['a']", "b"], r"item 0: target \['a'\] would be a list of texts"),
        ("'{{answer.x}}'", [{"x": 1}, {}], r"item 1: doc_to_target fails: UndefinedError"),
        ("answer", ["1", {"x": 1}], r"item 1: target \{'x': 1\} is neither a text nor a number"),
        ("answer", ["", ""], "every target, such as '', is empty or has white space around it"),
        ("|\n  {{answer}}", ["1", "2"], r"every target, such as '1\\n', is empty or has white"),
    ],
)
def test_targets_that_no_answer_could_equal_are_refused(
    template: str, values: list[Any], says: str
) -> None:
    edit("tasks/sums.yaml", 'doc_to_target: "{{answer}}"', f"doc_to_target: {template}")
    write_items("sums", "answer", *values)
    with pytest.raises(UserError, match=says):
        load_task("sums")


def test_a_text_in_brackets_in_a_plain_column_is_a_text_and_a_list_is_a_list() -> None:
    edit("tasks/sums.yaml", 'doc_to_target: "{{answer}}"', "doc_to_target: answer")
    write_items("sums", "answer", "[1, 2]", "['a']")
    assert targets("sums") == ["[1, 2]", "['a']"]
    write_items("sums", "answer", ["1", "one"], ["2"])
    assert targets("sums") == [["1", "one"], ["2"]]


@pytest.mark.parametrize(("label", "number"), [("C", 2), (1, 1)])
def test_generated_answers_are_compared_with_the_option_of_the_label(
    label: Any, number: int
) -> None:
    edit("tasks/sums.yaml", 'doc_to_target: "{{answer}}"', "doc_to_target: answer")
    edit("tasks/sums.yaml", "generation_kwargs", "doc_to_choice: [A, B, C]\ngeneration_kwargs")
    write_items("sums", "answer", label)
    assert targets("sums") == [number]
    write_items("sums", "answer", -1)
    with pytest.raises(UserError, match="item 0: label -1 is none of its 3 options"):
        load_task("sums")


@pytest.mark.parametrize(
    ("template", "values", "says"),
    [
        ("label", [[2], []], r"item 1: label \[\] names no option"),
        ("'{{label}}'", ["0", "08"], "item 1: doc_to_target fails: SyntaxError"),
    ],
)
def test_labels_that_name_nothing_are_refused(template: str, values: list[Any], says: str) -> None:
    edit("tasks/choices.yaml", "doc_to_target: label", f"doc_to_target: {template}")
    write_items("choices", "label", *values)
    with pytest.raises(UserError, match=says):
        load_task("choices")


def test_labels_that_are_texts_and_numbers_of_options_are_refused() -> None:
    edit("tasks/choices.yaml", '["A", "B", "C"]', '["2", "0", "1"]')
    edit("tasks/choices.yaml", "doc_to_target: label", "doc_to_target: '{{label}}'")
    with pytest.raises(UserError, match="the label 0 is the text of an option"):
        load_task("choices")
    edit("tasks/choices.yaml", "'{{label}}'", "label")
    write_items("choices", "label", "2", "0", "1")
    assert targets("choices") == ["2", "0", "1"]


def test_a_question_of_digits_is_not_taken_for_the_number_of_an_option() -> None:
    edit("tasks/choices.yaml", 'doc_to_text: "{{question}}"', 'doc_to_text: "{{label}}{{rest}}"')
    write_items("choices", "rest", "", "?")
    with pytest.raises(UserError, match=r"item 1: doc_to_text gives '1\?', and a number for item"):
        load_task("choices")


@pytest.mark.parametrize("task", ["sums", "choices"])
def test_a_value_may_lack_where_nothing_prints_it(
    task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_items(task, "note", "a note", None)
    load_task(task)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("template", "full", "empty"),
    [
        ("A. {{more[0]}} B. {{more[1]}}", ["x", "y"], ["x", None]),
        ("{{more.text}}", {"text": ["x", "y"]}, {"text": ["x", None]}),
        ("{% for part in more %}{{part.name}}{% endfor %}", [{"name": "x"}], [{"name": None}]),
    ],
)
def test_a_value_that_lacks_within_a_list_is_printed_too(
    template: str, full: Any, empty: Any
) -> None:
    edit("tasks/sums.yaml", 'doc_to_text: "{{question}}"', f"doc_to_text: '{template}'")
    write_items("sums", "more", full, empty)
    with pytest.raises(UserError, match="item 1: column 'more' holds None, and doc_to_text prints"):
        load_task("sums")
    edit("tasks/sums.yaml", template, "{{more | string | length}} {{question}}")
    load_task("sums")


def test_a_description_prints_values_too() -> None:
    edit("tasks/sums.yaml", "output_type", 'description: "About {{note}}."\noutput_type')
    write_items("sums", "note", "a", None)
    with pytest.raises(UserError, match="item 1: column 'note' is None, and description prints"):
        load_task("sums")


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("sums", "item 1: column 'question' is empty"),
        ("choices", "item choices:1: the prompt is empty"),
    ],
)
def test_an_item_without_a_prompt_is_refused(
    make_plan_on_disk: Callable[..., Any], task: str, says: str
) -> None:
    write_items(task, "question", "x", " ")
    with pytest.raises(UserError, match=says):
        make_plan_on_disk(task, apply_chat_template=False)


def test_options_that_the_tokenizer_does_not_tell_apart_are_refused(
    make_plan_on_disk: Callable[..., Any],
) -> None:
    edit("tasks/choices.yaml", '["A", "B", "C"]', '["a", "ä", "ö"]')
    with pytest.raises(UserError, match="item choices:0: options 'ä' and 'ö' are the same tokens"):
        make_plan_on_disk("choices")


@pytest.mark.parametrize(
    ("option", "target"),
    [
        ("ignore_numbers: true", "42"),
        ("ignore_punctuation: true", "?!"),
        ("regexes_to_ignore: ['[a-z]+']", "yes"),
    ],
)
def test_a_target_that_the_metric_ignores_is_refused(option: str, target: str) -> None:
    edit("tasks/sums.yaml", "exact_match, aggregation", f"exact_match, {option}, aggregation")
    write_items("sums", "answer", "No. 5", "No. 6")
    load_task("sums")
    write_items("sums", "answer", "No. 5", target)
    with pytest.raises(UserError, match="item 1: exact_match ignores all of its target"):
        load_task("sums")


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("ignore_cases: true", "unknown option 'ignore_cases'; did you mean 'ignore_case'"),
        ("agregation: mean", "unknown option 'agregation'; did you mean 'aggregation'"),
        ("ignore_case: 'no'", "ignore_case: 'no' is a text, which counts as true; write false"),
        ("regexes_to_ignore: 'abc'", "'abc' is one text; write a list of patterns"),
    ],
)
def test_options_that_exact_match_does_not_have_are_refused(option: str, says: str) -> None:
    edit("tasks/sums.yaml", "exact_match, aggregation", f"exact_match, {option}, aggregation")
    with pytest.raises(UserError, match=f"^task 'sums': metric_list: exact_match: .*{says}"):
        load_task("sums")


@pytest.mark.parametrize(
    ("task", "metric", "option"),
    [
        ("sums", "bleu, lowercase: true", "lowercase: True"),
        ("sums", "chrf, word_order: 2", "word_order: 2"),
        ("choices", "f1, average: macro", "average: 'macro'"),
        ("choices", "f1, average: macro, hf_evaluate: true", "average: 'macro'"),
        ("choices", "exact_match, aggregation: mean, ignore_case: true", "ignore_case: True"),
        ("choices", "acc, ignore_cases: true", "ignore_cases: True"),
        ("choices", "acc, ignore_case: true", None),
        ("choices", "f1, average: macro, aggregation: !function own.macro", None),
        ("own", "bleu, lowercase: true", "lowercase: True"),
        ("own", "exact_match, aggregation: mean, ignore_case: true", None),
    ],
)
def test_options_of_metrics_that_lm_eval_ignores_are_refused(
    task: str, metric: str, option: str | None
) -> None:
    Path("tasks/own.py").write_text(
        "def macro(items):\n    return 0.5\n\n\ndef score(doc, results):\n    return {}\n"
    )
    name = "sums" if task == "own" else task
    path = Path(f"tasks/{name}.yaml")
    own = "process_results: !function own.score\n" * (task == "own")
    text = path.read_text().partition("metric_list")[0]
    path.write_text(f"{text}{own}metric_list: [{{metric: {metric}}}]\n")
    if option is None:
        load_task(name)
    else:
        with pytest.raises(UserError, match=f"lm-eval would ignore its {option}; take it out, or"):
            load_task(name)


@pytest.mark.parametrize("options", ['["x", 2, "z"]', "[yes, no, maybe]", "numbers", "mixed"])
def test_options_that_are_no_texts_are_refused(options: str) -> None:
    edit("tasks/choices.yaml", '["A", "B", "C"]', options)
    write_items("choices", "numbers", *[[1, 2, 3]] * 8)
    write_items("choices", "mixed", *[["x", "y", 3]] * 8)
    with pytest.raises(UserError, match=r"line 1: task 'choices', item 0: options .*not a list of"):
        load_task("choices")


def test_a_question_that_is_a_number_is_refused(make_plan_on_disk: Callable[..., Any]) -> None:
    edit("tasks/sums.yaml", '"{{question}}"', "question")
    write_items("sums", "question", 1, 2)
    with pytest.raises(UserError, match="item 0: doc_to_text gives 1, which is no text; write it"):
        make_plan_on_disk()


def test_an_option_keeps_its_beginning_where_a_token_would_span_the_border() -> None:
    tokenizer = real_size_tokenizer()
    assert tokenizer.tokenize("x\n(A)") == ["x", "Ċ", "(A", ")"]
    prefix, target = PairEncoder(tokenizer)("x\n(", "A)")
    assert tokenizer.convert_ids_to_tokens(prefix) == ["x", "Ċ", "("]
    assert tokenizer.convert_ids_to_tokens(target) == ["A", ")"]


def test_numbers_that_a_folder_may_have_changed_are_refused() -> None:
    write_items("sums", "answer", 93, 2.5)
    Path("folder").mkdir()
    Path("tasks/data/sums.jsonl").rename("folder/test.jsonl")
    edit("tasks/sums.yaml", "dataset_path: json", "dataset_path: folder")
    edit("tasks/sums.yaml", "dataset_kwargs: {data_files: {test: tasks/data/sums.jsonl}}\n", "")
    with pytest.raises(UserError, match=r"folder: values of .* json files .* name the files"):
        load_task("sums")


@pytest.mark.parametrize(
    ("items", "numbers"),
    [
        pytest.param([(True, ["yes", "no"]), (False, ["yes", "no"])], [0, 1], id="yes and no"),
        pytest.param([(True, ["False", "True"])], [1], id="false and true"),
        pytest.param(
            [("B", ["C", "A", "B", "D"]), ("B", ["w", "x", "y", "z"])], [1, 1], id="letters"
        ),
        pytest.param([("2", ["0", "2", "1"]), ("2", ["x", "y", "z"])], [2, 2], id="digits"),
        pytest.param([("2", ["0", "2", "1"]), ("1", ["0", "2", "1"])], [1, 2], id="texts"),
        pytest.param([([0, 2], ["x", "y", "z"])], [[0, 2]], id="several"),
        pytest.param(
            [([0, 1], ["x", "y"]), ([0, 1, 2], ["x", "y", "z"])], [[0, 1], [0, 1, 2]], id="all"
        ),
    ],
)
def test_labels_are_read_in_the_way_of_all_items(
    items: list[tuple[Any, list[str]]], numbers: list[Any]
) -> None:
    reader = LabelReader(items)
    assert [reader.number(*item) for item in items] == numbers


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["A", "C", "1"], "item 2: label '1' is none of its 3 options in the way of the other"),
        (["1", "C", "A"], "item 1: label 'C' is none of its 3 options in the way of the other"),
        ([True, False], "item 0: label True is none of its 3 options"),
        ([[1, 0, 0], [0, 1, 0]], r"item 0: label \[1, 0, 0\] seems to mark each option"),
        ([[0, 0, 1], [2]], r"item 0: label \[0, 0, 1\] seems to mark each option"),
        ([[0, 0], [1, 1]], r"item 0: label \[0, 0\] seems to mark each option"),
        ([[[0]], [[1]]], r"item 0: label \[0\] is none of its 3 options"),
    ],
)
def test_labels_of_several_meanings_are_refused(labels: list[Any], says: str) -> None:
    edit("tasks/choices.yaml", '["A", "B", "C"]', '["x", "y", "z"]')
    write_items("choices", "label", *labels)
    with pytest.raises(UserError, match=says):
        load_task("choices")


def test_a_list_of_right_answers_beside_a_text_is_refused() -> None:
    write_items("sums", "answer", ["1", "one"], "12")
    with pytest.raises(UserError, match="item 1: target '12' is no list of right answers"):
        load_task("sums")


def test_an_option_without_another_is_refused() -> None:
    edit("tasks/choices.yaml", '["A", "B", "C"]', "options")
    write_items("choices", "options", ["x"])
    write_items("choices", "label", 0)
    with pytest.raises(UserError, match="item 0: has only the option 'x', which any model chooses"):
        load_task("choices")


def test_an_option_alone_may_be_the_likeliest_of_all_texts() -> None:
    edit("tasks/choices.yaml", '["A", "B", "C"]', "options")
    path = Path("tasks/choices.yaml")
    path.write_text(path.read_text().partition("metric_list")[0] + "metric_list:\n- ")
    with path.open("a") as file:
        file.write("{metric: exact_match, aggregation: mean, higher_is_better: true}\n")
    write_items("choices", "options", ["x"], ["x", "y"])
    write_items("choices", "label", [0], [0, 1])
    assert targets("choices") == [[0], [0, 1]]


@pytest.mark.parametrize("is_local", [True, False])
@pytest.mark.parametrize(
    ("names", "options", "is_named"),
    [
        (["False", "True"], '["It is so? yes", "It is so? no"]', True),
        (["neg", "pos"], "[pos, neg]", True),
        (["no", "yes"], '["False", "True"]', False),
        (["entailment", "contradiction"], '["True", "False"]', False),
    ],
)
def test_options_in_another_order_than_the_names_of_labels_are_found(
    make_plan_on_disk: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    names: list[str],
    options: str,
    is_named: bool,
    is_local: bool,
) -> None:
    rows = {"question": [f"Is it {i}?" for i in range(4)], "label": [0, 1, 1, 0]}
    features = Features(question=Value("string"), label=ClassLabel(names=names))
    Dataset.from_dict(rows, features=features).to_parquet("tasks/data/choices.parquet")
    edit("tasks/choices.yaml", "dataset_path: json", "dataset_path: parquet")
    edit("tasks/choices.yaml", "choices.jsonl", "choices.parquet")
    edit("tasks/choices.yaml", '["A", "B", "C"]', options)
    monkeypatch.setattr(labels, "is_local", lambda _: is_local)
    if is_named and is_local and names[0] in options:
        with pytest.raises(UserError, match=f"the label 0 of column 'label' '{names[0]}', but"):
            make_plan_on_disk("choices")
    else:
        make_plan_on_disk("choices")
        assert ("give the options in the order of" in capsys.readouterr().err) == is_named


@pytest.mark.parametrize(("label", "chosen"), [(1, 1), (2, 1), ([2], [1]), ([1, 2], [1, 1])])
def test_of_equal_options_the_first_is_right(label: Any, chosen: Any) -> None:
    edit("tasks/choices.yaml", '["A", "B", "C"]', "options")
    write_items("choices", "options", ["x", "y", "y"])
    write_items("choices", "label", label)
    task = next(iter(load_task("choices").leaves.values()))
    assert task.doc_to_target(task.eval_docs[0]) == chosen


def test_a_digit_among_labels_that_are_texts_is_not_taken_for_a_number() -> None:
    edit("tasks/choices.yaml", '["A", "B", "C"]', '["1", "2", "3", "none"]')
    edit("tasks/choices.yaml", "doc_to_target: label", "doc_to_target: '{{label}}'")
    write_items("choices", "label", "none", "1")
    with pytest.raises(UserError, match="the label 1 is the text of an option, and would be taken"):
        load_task("choices")
    edit("tasks/choices.yaml", "'{{label}}'", "label")
    write_items("choices", "label", "none", "1")
    assert targets("choices") == ["none", "1"]
    write_items("choices", "label", "none", 1)
    with pytest.raises(UserError, match="the label 1 is the text of an option, and would be taken"):
        load_task("choices")


@pytest.mark.parametrize("task", ["sums", "choices"])
def test_a_template_without_the_question_is_refused(task: str) -> None:
    edit(f"tasks/{task}.yaml", '"{{question}}"', '"Answer the question: "')
    with pytest.raises(UserError, match=f"task '{task}': all items ask the same and expect"):
        load_task(task)
    write_items(task, "question", "one item is one question")
    load_task(task)
