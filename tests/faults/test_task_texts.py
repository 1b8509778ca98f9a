"""Texts of a task that lm-eval would leave as they stand, or change, without a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastdllm.cli import main
from fastdllm.common.errors import UserError
from fastdllm.tasks.lm_eval_tasks import LoadedTask, load_task
from tests.support.small_project import edit

pytestmark = pytest.mark.usefixtures("project")
QUESTION = 'doc_to_text: "{{question}}"'
TARGET = 'doc_to_target: "{{answer}}"'
OPTIONS = 'doc_to_choice: ["A", "B", "C"]'
UNTIL = '["<|im_end|>"]'


def load(task: str, old: str, new: str, **columns: Any) -> LoadedTask:
    """Load a task of other text, each of its items with more columns."""
    edit(f"tasks/{task}.yaml", old, new)
    data = Path(f"tasks/data/{task}.jsonl")
    items = [json.loads(line) | columns for line in data.read_text().splitlines()]
    data.write_text("".join(json.dumps(item) + "\n" for item in items))
    return load_task(task)


def options(task: LoadedTask) -> list[str]:
    (leaf,) = task.leaves.values()
    return leaf.doc_to_choice(next(iter(leaf.eval_docs)))


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ('["{{a}}", "{{b}}", "C"]', r"lm-eval fills in no template here, and would take '{{a}}'"),
        (
            '{A: "{{a}}", B: x, C: "{% if 1 %}y{% endif %}"}',
            r"write one template of the list, such",
        ),
        ('["{a}", "{b}", "C"]', r"{a} would stay as it is, and not become the column; write {{a}}"),
        (
            "[a, b, c]",
            r'the names of the columns a, b, c, not their texts; write "{{\[a, b, c\]}}"',
        ),
    ],
)
def test_options_that_would_be_compared_as_they_stand_are_refused(choices: str, says: str) -> None:
    with pytest.raises(UserError, match=rf"^task 'choices': doc_to_choice: .*{says}"):
        load("choices", OPTIONS, f"doc_to_choice: {choices}", a="one", b="two", c="three")


def test_options_whose_texts_the_question_shows_may_be_columns() -> None:
    edit("tasks/choices.yaml", QUESTION, 'doc_to_text: "{{question}} {{A}} {{B}} {{C}}"')
    task = load("choices", "metadata", "metadata", A="one", B="two", C="three")
    assert options(task) == ["A", "B", "C"]


def test_options_may_be_columns_of_numbers() -> None:
    assert options(load("choices", "metadata", "metadata", A=0, B=0, C=1)) == ["A", "B", "C"]


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        (UNTIL, '["{{stop}}"]', "generation_kwargs.until"),
        (UNTIL, '"{{stop}}"', "generation_kwargs.until"),
        (QUESTION, QUESTION + '\ntarget_delimiter: "{{stop}}"', "target_delimiter"),
        (QUESTION, QUESTION + '\nfewshot_delimiter: "{{stop}}"', "fewshot_delimiter"),
    ],
)
def test_templates_where_lm_eval_reads_none_are_refused(old: str, new: str, key: str) -> None:
    says = rf"^task 'sums': {key}: lm-eval fills in no template here, and would take '{{{{stop}}}}'"
    with pytest.raises(UserError, match=says):
        load("sums", old, new, stop="#")


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (QUESTION, 'doc_to_text: "{question}"', "doc_to_text: {question}"),
        (QUESTION, 'doc_to_text: "{{question}} ${note}"', r"doc_to_text: \${note}"),
        (TARGET, 'doc_to_target: "{answer}"', "doc_to_target: {answer}"),
        (TARGET, TARGET + '\ndescription: "Of {note}"', "description: {note}"),
        (TARGET, TARGET + '\ngen_prefix: "{note}:"', "gen_prefix: {note}"),
        (
            TARGET,
            TARGET + '\nfewshot_config: {doc_to_text: "{note}"}',
            "fewshot_config.doc_to_text",
        ),
    ],
)
def test_columns_in_single_braces_are_refused(old: str, new: str, found: str) -> None:
    with pytest.raises(
        UserError, match=rf"^task 'sums': {found}.*not become the column; write {{{{"
    ):
        load("sums", old, new, note="a note")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (QUESTION, r"doc_to_text: '{{question}}\nAnswer:'"),
        (
            QUESTION,
            QUESTION
            + r"""
description: 'Add.\n\n'""",
        ),
        (TARGET, r"doc_to_target: '{{answer}}\n'"),
        (
            TARGET,
            TARGET
            + r"""
gen_prefix: 'So:\n'""",
        ),
        (
            TARGET,
            TARGET
            + r"""
fewshot_delimiter: '\n\n'""",
        ),
        (
            TARGET,
            TARGET
            + r"""
target_delimiter: '\n'""",
        ),
        (UNTIL, r"['\n\n']"),
    ],
)
def test_a_backslash_and_an_n_in_place_of_a_line_break_are_refused(old: str, new: str) -> None:
    with pytest.raises(UserError, match=r"holds a backslash and an n, which is no line break"):
        load("sums", old, new)


@pytest.mark.parametrize(
    "text",
    [
        r"'\boxed{answer} and \frac{note}{answer}, x_{answer}, \nabla, \neq: {{question}}'",
        r"'{other} { note } {{ ''{note}'' }}{{ ''\n'' }}{{question}}{# {note} \n #}'",
        r"""'{{question}} {{ ''\\n'' }}'""",
        r'"{{question}}\nAnswer:"',
    ],
)
def test_latex_other_braces_and_escapes_within_expressions_are_left(text: str) -> None:
    load("sums", QUESTION, f"doc_to_text: {text}", note="a note")


REGEX = r'"(\\d)"'
METRIC = "exact_match, aggregation"
IGNORE = "exact_match, regexes_to_ignore: [{}], aggregation"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (REGEX, r"'#### (-?\\d+)'", r"a backslash before d, since YAML .* write \\d \(for"),
        (REGEX, r"(\\w), group_select: 0", "a backslash before w"),
        (REGEX, r'"\b([A-D])\b"', r"'\\x08\(\[A-D\]\)\\x08' holds a control .* single quotes"),
        (METRIC, IGNORE.format(r'"\b(?:the|a) "'), r"'\\x08"),
        (METRIC, IGNORE.format(r"',', '\\s+$'"), "a backslash before s"),
    ],
)
def test_patterns_that_find_nothing_are_refused(old: str, new: str, says: str) -> None:
    key = "filter_list: regex_pattern" if old == REGEX else "metric_list: regexes_to_ignore"
    with pytest.raises(UserError, match=rf"^task 'sums': {key}: .*{says}"):
        load("sums", old, new)


@pytest.mark.parametrize(
    "pattern",
    [r"'(\d)'", r'"(\\d)\n"', r"'\\(d?frac|boxed)|\\\\|\\dfrac\\sqrt|\\\d|[\\]d'", r"'\\$'"],
)
def test_patterns_of_latex_and_backslashes_are_taken(pattern: str) -> None:
    load("sums", REGEX, pattern)


@pytest.mark.parametrize(("old", "new"), [(REGEX, "(a"), (METRIC, IGNORE.format("'(a'"))])
def test_a_pattern_that_is_none_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], old: str, new: str
) -> None:
    edit("tasks/sums.yaml", old, new)
    assert main(["plan", "--task", "sums"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("fastdllm: task 'sums' cannot be evaluated: ")
    assert "missing ), unterminated subpattern" in line


def test_options_of_generation_that_are_a_text_are_refused() -> None:
    old = '{until: ["<|im_end|>"], max_gen_toks: 24, do_sample: false}'
    with pytest.raises(UserError, match=r"generation_kwargs: 'until=x,.*' is not allowed; write"):
        load("sums", old, "until=x,max_gen_toks=24")


LATEX = {"a": "\\theta", "b": "\\frac{1}{2}", "c": "x \\\\ y"}


@pytest.mark.parametrize("column", ["a", "b", "c"])
def test_options_in_quotes_that_lose_a_backslash_are_refused(column: str) -> None:
    template = f"""doc_to_choice: "['{{{{{column}}}}}', 'B', 'C']\""""
    says = r"item 0: doc_to_choice gives .* takes a backslash in the data for an escape; write the"
    with pytest.raises(UserError, match=says):
        load("choices", OPTIONS, template, **LATEX)


def test_targets_in_quotes_that_lose_a_backslash_are_refused() -> None:
    with pytest.raises(UserError, match=r"doc_to_target gives .* takes a backslash in the data"):
        load("sums", TARGET, """doc_to_target: "['{{a}}', '{{b}}']\"""", **LATEX)


def test_lists_that_keep_their_backslashes_are_taken() -> None:
    task = load("choices", OPTIONS, 'doc_to_choice: "{{[a, b, c]}}"', **LATEX)
    assert options(task) == list(LATEX.values())


def test_a_list_that_is_text_in_the_data_has_its_own_escapes() -> None:
    given = ["x\ny", "\\theta", "z\f"]
    task = load("choices", OPTIONS, 'doc_to_choice: "{{listed}}"', listed=repr(given))
    assert options(task) == given
    with pytest.raises(UserError, match="takes a backslash in a list in the data for an escape"):
        load("choices", "metadata", "metadata", listed=r"['\beta', 'B', 'C']")


@pytest.mark.parametrize(
    ("template", "option"),
    [
        ("['{{d}}', 'B', 'C']", "\\sqrt{2}"),
        ("['{{a | replace('\\\\', '\\\\\\\\')}}', 'B', 'C']", "\\theta"),
    ],
)
def test_options_in_quotes_that_keep_their_backslash_are_taken(template: str, option: str) -> None:
    new = f"doc_to_choice: {json.dumps(template)}"
    assert options(load("choices", OPTIONS, new, d="\\sqrt{2}", **LATEX))[0] == option


def test_the_command_line_says_it_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    edit("tasks/sums.yaml", QUESTION, "doc_to_text: '{{question}}\\nAnswer:'")
    assert main(["plan", "--task", "sums"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "task 'sums': doc_to_text: holds a backslash and an n" in line
    assert not Path("results/_plans/sums/plan.json").exists()
