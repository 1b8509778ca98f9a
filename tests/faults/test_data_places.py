"""An error of data names the file and the row; a name that exists is no pattern."""

from __future__ import annotations

import errno
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastdllm.cli import main
from fastdllm.common.files import cannot

DATA = Path("tasks/data")
SUMS, TASK = DATA / "sums.jsonl", Path("tasks/sums.yaml")
GOOD = '{"question": "q", "answer": "1"}\n'


def name_data(name: str, builder: str = "json") -> None:
    text = TASK.read_text().replace("test: tasks/data/sums.jsonl", f'test: "{DATA / name}"')
    TASK.write_text(text.replace("dataset_path: json", f"dataset_path: {builder}"))


def ask(template: str) -> None:
    TASK.write_text(TASK.read_text().replace('"{{question}}"', f'"{template}"'))


def plan(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Plan the task; returns the exit code and the last line of stderr."""
    code = main(["plan", "--task", "sums"])
    return code, capsys.readouterr().err.strip().split("\n")[-1]


def questions() -> list[str]:
    lines = Path("results/_plans/sums/requests.jsonl").read_text().splitlines()
    return [json.loads(line)["args"][0].split("\n")[1].removesuffix("<|im_end|>") for line in lines]


def write(name: str, content: str | bytes, builder: str = "json") -> None:
    (DATA / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    if name != SUMS.name:
        name_data(name, builder)


def a_folder() -> None:
    SUMS.unlink()
    SUMS.mkdir()


def a_helper(code: str) -> None:
    Path("tasks/helpers.py").write_text(code)
    TASK.write_text(TASK.read_text().replace('"{{question}}"', "!function helpers.question"))


def of_one_row(template: str, *rows: dict[str, Any]) -> None:
    ask(template)
    records = [{"question": "q", "answer": "1", **row} for row in rows]
    write(SUMS.name, "".join(json.dumps(record) + "\n" for record in records))


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda: write(SUMS.name, GOOD + '{"question": '), f"{SUMS}, line 2: not valid JSON"),
        (lambda: write(SUMS.name, GOOD + '{"q": "a\0b"}'), f"{SUMS}, line 2: not valid JSON"),
        (lambda: write(SUMS.name, "\0" * 50), f"{SUMS}, line 1: not valid JSON"),
        (lambda: write(SUMS.name, GOOD.encode("utf-16")), f"{SUMS}: not UTF-8 text"),
        (lambda: write(SUMS.name, GOOD + '{"\\ud800": 1}'), f"{SUMS}, line 2: half a character"),
        (
            lambda: write(SUMS.name, ""),
            f"its data has no items; check data_files {{'test': '{SUMS}",
        ),
        (a_folder, f"{SUMS}: no such file"),
        (
            lambda: write("a.jsonl.gz", GOOD),
            "a.jsonl.gz: cannot be unpacked (Not a gzipped file",
        ),
        (lambda: write("a.jsonl.bz2", GOOD), "a.jsonl.bz2: cannot be unpacked (Invalid data"),
        (lambda: write("a.jsonl.xz", GOOD), "a.jsonl.xz: cannot be unpacked (Input format"),
        (
            lambda: write("a.jsonl.gz", gzip.compress(GOOD.encode())[:-9]),
            "a.jsonl.gz: cannot be unpacked (Compressed file ended",
        ),
        (
            lambda: write("a.parquet", GOOD, "parquet"),
            "its data {'test': 'tasks/data/a.parquet'} cannot be loaded: ArrowInvalid: Parquet",
        ),
        (
            lambda: write("a.csv", "question;answer\nq;1\n", "csv"),
            "a.csv, row 2: a template of task 'sums' asks for what is not there: 'question' is",
        ),
        (
            lambda: ask("{{question}} {{hint}}"),
            f"{SUMS}, line 1: a template of task 'sums' asks for what is not there: 'hint' is "
            "undefined; columns: question, answer",
        ),
        (
            lambda: a_helper("def question(doc):\n    return doc['q']\n"),
            f"{SUMS}, line 1: a helper of task 'sums' asks for what is not there: 'q'; columns: "
            "question, answer",
        ),
        (lambda: ask("{{question.a}}"), f"{SUMS}, line 1: a template of task 'sums' asks for what"),
        (lambda: ask("{{question | letters}}"), "tasks/sums.yaml: cannot be loaded: Template"),
        (
            lambda: TASK.write_text(TASK.read_text().replace("generate_until", "[]")),
            "tasks/sums.yaml: cannot be loaded: ValueError: Got invalid output_type '[]'",
        ),
        (
            lambda: (DATA.parent / "other.yaml").write_text("task: null\ndataset_path: json\n"),
            "tasks/other.yaml: task: None is not allowed; it should be a name",
        ),
        (lambda: a_helper("import sys\nsys.exit(3)\n"), "cannot be loaded: SystemExit: 3"),
        (lambda: a_helper("def question(doc):\n    exit(3)\n"), "cannot be loaded: SystemExit: 3"),
        (
            lambda: of_one_row("{{hint}}", {"hint": "h"}, {}),
            f"{SUMS}, line 2: task 'sums', item 1: column 'hint' is None, and doc_to_text prints",
        ),
        (
            lambda: of_one_row("{{hint.x}}", {"hint": {"x": "h"}}, {"hint": {}}),
            f"{SUMS}, line 2: task 'sums', item 1: doc_to_text fails: UndefinedError",
        ),
    ],
)
def test_an_error_names_file_and_row(
    capsys: pytest.CaptureFixture[str], break_it: Callable[[], object], says: str
) -> None:
    break_it()
    code, line = plan(capsys)
    assert code == 2
    assert says in line
    assert not Path("results/_plans/sums/plan.json").exists()


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("code", "says"),
    [
        (
            "docs.filter(lambda doc: doc['n'] < 9)",
            f"{SUMS}, line 2: task 'sums': process_docs fails: TypeError: '<' not supported",
        ),
        (
            "docs.map(lambda doc: {'n': [1, 2].index(doc['n'])})",
            f"{SUMS}, line 2: task 'sums': None is not in list",
        ),
        ("docs.select([7])", f"{SUMS}: task 'sums': process_docs fails: IndexError"),
    ],
)
def test_the_item_that_process_docs_refuses_is_named(
    capsys: pytest.CaptureFixture[str], code: str, says: str
) -> None:
    Path("tasks/helpers.py").write_text(f"def some(docs):\n    return {code}\n")
    TASK.write_text(TASK.read_text() + "process_docs: !function helpers.some\n")
    of_one_row("{{question}}", {"n": 1}, {}, {"n": 2})
    assert says in plan(capsys)[1]


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    "content", [GOOD.replace("\n", "\r\n"), "\ufeff" + GOOD, "\n \r\n" + GOOD + "\n\n"]
)
def test_marks_and_line_ends_of_other_systems_are_no_part_of_the_data(
    capsys: pytest.CaptureFixture[str], content: str
) -> None:
    write(SUMS.name, content)
    assert plan(capsys)[0] == 0
    assert questions() == ["q"]


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("builder", ["json", "csv", "parquet"])
def test_a_name_that_exists_is_no_pattern(capsys: pytest.CaptureFixture[str], builder: str) -> None:
    from pandas import DataFrame

    for name in ("q[1]", "q1"):
        data = DataFrame({"question": [name], "answer": ["1"]})
        file = DATA / f"{name}.{builder}"
        if builder == "parquet":
            data.to_parquet(file)
        elif builder == "csv":
            data.to_csv(file, index=False)
        else:
            data.to_json(file, orient="records", lines=True)
    name_data(f"q[1].{builder}", builder)
    assert plan(capsys)[0] == 0
    assert questions() == ["q[1]"]
    TASK.write_text(TASK.read_text().replace("q[1].", "q*."))
    assert plan(capsys)[0] == 0
    assert questions() == ["q1", "q[1]"]


def test_the_advice_about_a_file_that_cannot_be_read_is_to_make_it_readable() -> None:
    refused = PermissionError(errno.EACCES, "Permission denied")
    assert "make it readable" in str(cannot("read", SUMS, refused))
    assert "make the folder writable" in str(cannot("write", SUMS, refused))


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("pattern", ["t-*.jsonl", "t-00000-of-00002.jsonl"])
def test_data_of_which_a_part_is_not_there_is_refused(
    capsys: pytest.CaptureFixture[str], pattern: str
) -> None:
    (DATA / "t-00000-of-00002.jsonl").write_text(GOOD)
    name_data(pattern)
    code, line = plan(capsys)
    assert code == 2
    assert f"its data lacks {DATA}/t-00001-of-00002.jsonl; name all parts" in line
    (DATA / "t-00001-of-00002.jsonl").write_text(GOOD.replace('"q"', '"r"'))
    TASK.write_text(TASK.read_text().replace("t-00000-of-00002.jsonl", "t-*.jsonl"))
    assert plan(capsys)[0] == 0
    assert questions() == ["q", "r"]
