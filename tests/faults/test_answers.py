"""Right answers that could not score, wrong ones that would, and prompts that print the answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
import yaml
from datasets import Dataset

from fastdllm.cli import main
from fastdllm.common.errors import UserError
from tests.support.small_project import edit

pytestmark = pytest.mark.usefixtures("project")
DATA = Path(__file__).parents[3] / "shared/data"
TASK = Path("tasks/sums.yaml")
QUESTION = 'doc_to_text: "{{question}}"'
UNTIL = 'until: ["<|im_end|>"]'
METRIC = "exact_match, aggregation"
REGEX = '{function: regex, regex_pattern: "(\\\\d)"}'
ANY = '{function: regex, regex_pattern: "(?s)(.*)"}'

Plan = Callable[..., Any]


def write(*targets: Any, **changes: str) -> None:
    """Give the task these targets, and texts of its file for others; no filter but take_first."""
    text = TASK.read_text().replace(REGEX, changes.pop("filter", ANY))
    for old, new in changes.items():
        assert globals()[old] in text
        text = text.replace(globals()[old], new)
    TASK.write_text(text)
    items = [{"question": f"What is the number {i}? ", "answer": t} for i, t in enumerate(targets)]
    Path("tasks/data/sums.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))


def notices(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("fastdllm: ")]


def publish() -> None:
    """Let the items come from elsewhere, as a data set of others does."""
    Path("tasks/others.py").write_text(
        "import json\n\nfrom datasets import Dataset\n\n\ndef load(data_files, **_):\n"
        "    lines = open(data_files['test']).readlines()\n"
        "    return {'test': Dataset.from_list([json.loads(line) for line in lines])}\n"
    )
    if "custom_dataset" not in TASK.read_text():
        edit(str(TASK), "dataset_path:", "custom_dataset: !function others.load\ndataset_path:")


REGEX_OF_THE_END = {
    "filter": REGEX,
    "METRIC": 'exact_match, regexes_to_ignore: [".*#"], aggregation',
}
REFUSED: dict[str, tuple[list[Any], dict[str, str], str]] = {
    "line break of until": (
        ["b", "a\nb"],
        {"UNTIL": r'until: ["\n"]'},
        r"line 2: task 'sums', item 1: answers end at '\\n', a text of until, so that its target "
        r"'a\\nb' would not be right as an answer; 1 of 2 items; correct generation_kwargs",
    ),
    "dot of until": (["St. Louis", "Rome"], {"UNTIL": 'until: ["."]'}, "answers end at '.'"),
    "budget": (["a" * 25, "b"], {}, "max_gen_toks ends answers after 24 tokens of 25"),
    "letters": (["für", "b"], {}, r"the model's tokenizer writes it as 'f\?r'"),
    "lowercase": (
        ["yes", "No"],
        {"filter": "{function: lowercase}"},
        "item 1: its target 'No' would not be right as an answer, which the filters make 'no'; "
        "1 of 2 items; correct filter_list",
    ),
    "lowercase, all": (["Yes", "No"], {"filter": "{function: lowercase}"}, "make 'yes'; 2 of 2"),
    "no width": (["18", "19\u200b"], {}, r"its target '19\\u200b' would not be right"),
    "space": (["18", " 19", "20"], {}, "item 1: its target ' 19' would not be right"),
    "fraction": (["1/2", "3", "4"], {"filter": REGEX}, "its target '1/2' .* the filters make '1'"),
    "brackets": (["(1)", "(2)"], {"filter": REGEX}, r"target '\(1\)' .* make '1'; 2 of 2 items"),
    "fallback": (
        ["yes", "no"],
        {"filter": '{function: regex, regex_pattern: "is (yes|no)", fallback: "no"}'},
        "item 1: an empty answer would be right, its target being 'no'; 1 of 2 items",
    ),
    "default": (
        ["1", "0"],
        {"filter": '{function: map, mapping_dict: {"yes": "1"}, default_value: "0"}'},
        "an empty answer would be right, its target being '0'",
    ),
    "point": (
        ["2.5", "25"],
        {"METRIC": "exact_match, ignore_punctuation: true, aggregation"},
        r"item 1: exact_match takes its target '25' for that of item 0, '2.5' \(ignore_punctuation",
    ),
    "sign": (["5", "-5"], {"METRIC": "exact_match, ignore_punctuation: true, aggregation"}, "'-5'"),
    "digits": (
        ["room 5", "room 6"],
        {"METRIC": "exact_match, ignore_numbers: true, aggregation"},
        "takes its target 'room 6' for that of item 0",
    ),
}


@pytest.mark.parametrize(("targets", "changes", "says"), REFUSED.values(), ids=REFUSED)
def test_targets_that_would_be_scored_wrongly_are_refused(
    make_plan_on_disk: Plan, targets: list[Any], changes: dict[str, str], says: str
) -> None:
    write(*targets, **changes)
    with pytest.raises(UserError, match=says):
        make_plan_on_disk()


@pytest.mark.parametrize(
    ("targets", "changes"),
    [
        pytest.param([["St. Louis", "St Louis"], ["x"]], {"UNTIL": 'until: ["."]'}, id="one of"),
        pytest.param(["x" * 30 + "#1", "y" * 30 + "#2"], REGEX_OF_THE_END, id="a shorter answer"),
        pytest.param(
            ["a", "b"],
            {"filter": '{function: regex, regex_pattern: "answer is ([ab])"}'},
            id="no complete answers",
        ),
        pytest.param(
            ["1,000", "1000", "p.m.", "pm"],
            {"METRIC": "exact_match, ignore_punctuation: true, aggregation"},
            id="one number in two forms",
        ),
        pytest.param(
            [["2.5", "25"], ["x"]],
            {"METRIC": "exact_match, ignore_punctuation: true, aggregation"},
            id="two forms of one item",
        ),
        pytest.param(["", "x"], {}, id="no answer is right"),
    ],
)
def test_targets_that_are_scored_rightly_are_taken(
    make_plan_on_disk: Plan,
    capsys: pytest.CaptureFixture[str],
    targets: list[Any],
    changes: dict[str, str],
) -> None:
    write(*targets, **changes)
    if isinstance(targets[0], list):
        edit("tasks/sums.yaml", '"{{answer}}"', "answer")
    assert make_plan_on_disk().header.n_items == len(targets)
    assert notices(capsys) == []


@pytest.mark.parametrize(
    ("targets", "question"),
    [
        ([" kitchen", " hall"], QUESTION),
        ([0, 1], QUESTION + '\ndoc_to_choice: [" no", " yes"]'),
    ],
)
def test_targets_may_begin_with_a_space_where_no_chat_template_ends_the_prompt(
    make_plan_on_disk: Plan, targets: list[Any], question: str
) -> None:
    write(*targets, filter="{function: lowercase}", QUESTION=question)
    assert make_plan_on_disk(apply_chat_template=False).header.n_items == 2
    with pytest.raises(UserError, match=r"item 0: its target ' \w+' begins with a space, which"):
        make_plan_on_disk()
    edit(str(TASK), METRIC, 'exact_match, regexes_to_ignore: ["^ "], aggregation')
    assert make_plan_on_disk().header.n_items == 2


def test_a_few_of_published_items_are_named(
    make_plan_on_disk: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    write("a.", "b", "c", "D", UNTIL='until: ["."]', filter="{function: lowercase}")
    publish()
    assert make_plan_on_disk().header.n_items == 4
    cut, changed = notices(capsys)
    assert "item 0: answers end at '.', a text of until" in cut and "1 of 4 items" in cut
    assert "item 3: its target 'D' would not be right" in changed
    # Of all items, as a first look at one of them says little.
    assert make_plan_on_disk(limit=1).header.n_items == 1
    write("a.", "b.", "c", "d")
    publish()
    with pytest.raises(UserError, match=r"answers end at '\.'.* 2 of 4 items"):
        make_plan_on_disk()


def test_one_of_more_than_a_hundred_local_items_is_named(
    make_plan_on_disk: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    write("1.5", *map(str, range(99)), UNTIL='until: ["."]')
    with pytest.raises(UserError, match=r"item 0: answers end at '\.'.* 1 of 100 items"):
        make_plan_on_disk()
    write("1.5", *map(str, range(100)))
    assert make_plan_on_disk().header.n_items == 101
    (line,) = notices(capsys)
    assert "item 0: answers end at '.'" in line and "1 of 101 items" in line


@pytest.mark.parametrize("in_folder", [True, False])
def test_items_of_any_kind_of_local_file_are_no_published_ones(
    make_plan_on_disk: Plan, in_folder: bool
) -> None:
    write("a", "b", "c", "d", "e", "F", filter="{function: lowercase}")
    items = list(map(json.loads, Path("tasks/data/sums.jsonl").read_text().splitlines()))
    file = Path("data_set/test.parquet")
    file.parent.mkdir()
    Dataset.from_list(items).to_parquet(file)
    old, new = "dataset_path: json", f"dataset_path: {'data_set' if in_folder else 'parquet'}"
    edit(str(TASK), old, new)
    edit(
        str(TASK),
        "{data_files: {test: tasks/data/sums.jsonl}}",
        f"{{data_files: {{test: {file.name if in_folder else file}}}}}",
    )
    with pytest.raises(UserError, match=r"item 5: its target 'F' would not be right"):
        make_plan_on_disk()


def test_scores_of_a_task_s_own_may_be_high_for_saying_nothing(
    make_plan_on_disk: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("tasks/own.py").write_text(
        "def score(doc, results):\n    return {'exact_match': float('bomb' not in results[0])}\n"
    )
    write("harmless", "harmful")
    edit(str(TASK), "test_split:", "process_results: !function own.score\ntest_split:")
    assert make_plan_on_disk().header.n_items == 2
    (line,) = notices(capsys)
    assert "an empty answer would be right" in line and "2 of 2 items" in line


def test_a_metric_by_which_any_answer_is_right_is_refused(make_plan_on_disk: Plan) -> None:
    Path("tasks/own.py").write_text(
        "def kind(references, predictions):\n    return float(bool(predictions[0]))\n"
    )
    write("a", "b", "c", "d")
    edit(str(TASK), "exact_match, aggr", "!function own.kind, aggr")
    edit(str(TASK), "exact_match,number", "kind,number")
    says = r"'The answer is 1\.' would be right for 4 of 4 items, whose targets differ \('a', 'd'\)"
    with pytest.raises(UserError, match=says):
        make_plan_on_disk()


@pytest.mark.parametrize(
    ("score", "says"),
    [
        ("100.0 * (answer == target)", r"\(item 0 has 100\), which tables"),  # as its own answer
        ("9.0 * (target == '5')", r"\(item 5 has 9\), which tables"),  # as the dummy answer
        ("-1 + (answer == target)", r"\(item 0 has -1\), which tables"),
        ("0.5 * (answer == target)", None),
    ],
)
@pytest.mark.parametrize(
    ("is_metric", "made_by"),
    [(True, "mean"), (False, "mean"), (False, "!function own.average")],
)
def test_a_score_of_an_item_beyond_1_is_refused_though_the_mean_is_not(
    make_plan_on_disk: Plan, score: str, says: str | None, is_metric: bool, made_by: str
) -> None:
    Path("tasks/own.py").write_text(
        "def own(references, predictions):\n    return of(references[0], predictions[0])\n\n\n"
        "def score(doc, results):\n    return {'own': of(doc['answer'], results[0])}\n\n\n"
        f"def of(target, answer):\n    return {score}\n\n\n"
        "def average(items):\n    return sum(items) / len(items)\n"
    )
    write(*map(str, range(10)), METRIC="own, aggregation")
    edit(str(TASK), "exact_match,number", "own,number")
    edit(str(TASK), "aggregation: mean", f"aggregation: {made_by}")
    if is_metric:
        edit(str(TASK), "metric: own", "metric: !function own.own")
    else:
        edit(str(TASK), "test_split:", "process_results: !function own.score\ntest_split:")
    if says is None:
        assert make_plan_on_disk().header.n_items == 10
    else:
        with pytest.raises(UserError, match=f"its primary metric 'own.* is no share of 1 {says}"):
            make_plan_on_disk()


def test_an_aggregation_of_a_task_may_make_a_share_of_other_scores(make_plan_on_disk: Plan) -> None:
    Path("tasks/own.py").write_text(
        "def score(doc, results):\n    return {'exact_match': 100 * (doc['answer'] == results[0])}"
        "\n\n\ndef share(items):\n    return sum(items) / 100 / len(items)\n"
    )
    write("18", "5", METRIC="exact_match, aggregation")
    edit(str(TASK), "aggregation: mean", "aggregation: !function own.share")
    edit(str(TASK), "test_split:", "process_results: !function own.score\ntest_split:")
    assert make_plan_on_disk().header.n_items == 2


def test_a_filter_that_gives_back_fewer_answers_is_refused(make_plan_on_disk: Plan) -> None:
    Path("tasks/own.py").write_text(
        "def few(answers, docs):\n    return [a for a in answers if a[0].startswith('The')]\n"
    )
    write("a", "b", filter="{function: custom, filter_fn: !function own.few}")
    with pytest.raises(UserError, match="filter_list 'number' gives back fewer answers than it"):
        make_plan_on_disk()


@pytest.mark.parametrize(
    ("score", "is_refused"),
    [
        ("results[0] == doc['answer']", True),
        ("results[0] == str(doc['answer'])", False),
        ("results[0] == f'It is {doc[\"answer\"] + 1}.'", False),
    ],
)
def test_a_function_that_compares_answers_with_numbers_is_refused(
    make_plan_on_disk: Plan, score: str, is_refused: bool
) -> None:
    Path("tasks/own.py").write_text(
        f"def score(doc, results):\n    return {{'exact_match': float({score})}}\n"
    )
    edit(str(TASK), "test_split:", "process_results: !function own.score\ntest_split:")
    write(18, 5, 7)
    if is_refused:
        with pytest.raises(UserError, match=r"target '18' is wrong as an answer.* 3 of 3 items"):
            make_plan_on_disk()
    else:
        assert make_plan_on_disk().header.n_items == 3


def test_a_metric_that_fails_for_an_empty_answer_is_named_at_plan(make_plan_on_disk: Plan) -> None:
    Path("tasks/own.py").write_text(
        "def score(doc, results):\n    return {'exact_match': float(results[0][0] == 'x')}\n"
    )
    edit(str(TASK), "test_split:", "process_results: !function own.score\ntest_split:")
    write("x", "y", filter=ANY)
    with pytest.raises(UserError, match=r"item 0: an answer such as '' cannot be scored: IndexErr"):
        make_plan_on_disk()


def test_one_target_of_all_items_is_named(
    make_plan_on_disk: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    write("yes", "yes", "yes")
    make_plan_on_disk()
    (line,) = notices(capsys)
    assert "task 'sums': the target of all 3 items is 'yes'" in line


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            'doc_to_text: "{{question}} Answer: {{answer}}"',
            "item 0: its question ends with its answer, '18', as that of all items",
        ),
        (
            'doc_to_text: "{{question}} #### {{answer}}.\\n"',
            "its question ends with its answer, '18'",
        ),
        (
            QUESTION + '\ngen_prefix: "{{answer}}"',
            "item 0: its question ends with its answer, '18'",
        ),
        (
            'doc_to_text: "{{question}} {{question.title}}"',
            "item 0: a template prints '<built-in method title of str object at 0x",
        ),
        (
            'doc_to_text: "{{question}} {{[question] | select}}"',
            r"prints '<generator object .* make a list of it, as in {{names \| list}}",
        ),
        (
            QUESTION + '\nnum_fewshot: 1\nfewshot_config: {doc_to_text: "{{question.title}}"}',
            "item 0: a template prints '<built-in method title of str object at 0x",
        ),
        (
            QUESTION + '\ndescription: "Q: What is the number 1? A: 5\\n\\n"',
            "item 1: its column 'question' stands in description or doc_to_text as well",
        ),
        (
            'doc_to_text: "Q: What is the number 1? A: 5. Q: {{question}}"',
            "item 1: its column 'question' stands in description or doc_to_text as well",
        ),
    ],
)
def test_prompts_that_print_answers_or_objects_are_refused(
    make_plan_on_disk: Plan, text: str, says: str
) -> None:
    write("18", "5", "7", QUESTION=text)
    with pytest.raises(UserError, match=says):
        make_plan_on_disk()


def test_a_column_that_is_the_target_as_well_is_named(
    make_plan_on_disk: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    write("18", "5", QUESTION='doc_to_text: "{{question}} (It is {{answer}}.) So?"')
    make_plan_on_disk()
    (line,) = notices(capsys)
    assert "task 'sums': its questions print the column 'answer', which is the target" in line


@pytest.mark.parametrize(
    "text",
    [
        'doc_to_text: "{{question}} 18, or 5, or 7"',
        'doc_to_text: "{{question}} <object object at 0x7f00>"',
    ],
)
def test_prompts_that_hold_answers_among_others_are_taken(
    make_plan_on_disk: Plan, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    write("18", "5", "7", QUESTION=text)
    path = Path("tasks/data/sums.jsonl")  # the text of an object is of the data, as in code
    items = [json.loads(line) | {"q": "<object object at 0x7f00>"} for line in path.open()]
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    make_plan_on_disk()
    assert notices(capsys) == []


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the questions in ../shared/data")
@pytest.mark.parametrize(
    ("stock", "rows"),
    [
        ("gsm8k/gsm8k.yaml", "gsm8k/test.jsonl"),
        ("mmlu/generative/_default_template_yaml", "mmlu/test/anatomy.jsonl"),
        (
            "mmlu/flan_n_shot/generative/_mmlu_flan_generative_template_yaml",
            "mmlu/test/anatomy.jsonl",
        ),
    ],
)
def test_stock_tasks_raise_no_alarm(
    make_plan_on_disk: Plan, capsys: pytest.CaptureFixture[str], stock: str, rows: str
) -> None:
    config = yaml.safe_load((Path(lm_eval.tasks.__file__).parent / stock).read_text())
    for key in ("tag", "dataset_name", "fewshot_split", "training_split", "fewshot_config"):
        config.pop(key, None)
    config["generation_kwargs"].setdefault("max_gen_toks", 256)
    data = {"test": "tasks/data/sums.jsonl"}
    config |= {"task": "sums", "dataset_path": "json", "dataset_kwargs": {"data_files": data}}
    TASK.write_text(yaml.safe_dump(config | {"num_fewshot": 0}))
    lines = (DATA / rows).read_text(encoding="utf-8").splitlines(keepends=True)[:100]
    Path(data["test"]).write_text("".join(lines))
    assert make_plan_on_disk().header.n_items == 100
    assert notices(capsys) == []


def test_the_command_line_says_it_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    write("a\nb", "c", UNTIL=r'until: ["\n"]')
    assert main(["plan", "--task", "sums"]) == 2
    (line,) = notices(capsys)
    assert "line 1: task 'sums', item 0: answers end at" in line
    assert not Path("results/_plans/sums/plan.json").exists()


@pytest.mark.slow  # another process plans the task once more
@pytest.mark.parametrize(
    ("order", "code"), [("' '.join(words)", 2), ("' '.join(sorted(words))", 0)], ids=["set", "list"]
)
def test_prompts_that_each_process_orders_otherwise_are_refused(
    capsys: pytest.CaptureFixture[str], order: str, code: int
) -> None:
    Path("tasks/own.py").write_text(
        "def asked(doc):\n    words = {doc['question'], *'abcdefgh'}\n    return " + order + "\n"
    )
    write("18", "5", QUESTION="doc_to_text: !function own.asked")
    assert main(["plan", "--task", "sums"]) == code
    assert Path("results/_plans/sums/plan.json").exists() == (code == 0)
    if code:
        (line,) = notices(capsys)
        assert "task 'sums', item 0: another process asks or expects something else" in line
