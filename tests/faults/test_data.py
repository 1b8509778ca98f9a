"""Data that must not become another value on its way into a prompt, a target or a label."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastdllm.common.errors import UserError
from fastdllm.tasks.checks.labels import LabelReader
from fastdllm.tasks.lm_eval_setup import lm_eval_environment
from fastdllm.tasks.lm_eval_tasks import load_task
from fastdllm.tasks.local_data import read_splits

SUMS = Path("tasks/data/sums.jsonl")


def write(text: str, path: Path = SUMS) -> None:
    path.write_text(text, encoding="utf-8")


def rows(*values: Any) -> str:
    records = [{"question": f"q{n}", "answer": value} for n, value in enumerate(values)]
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def edit_task(old: str, new: str, task: str = "sums") -> None:
    path = Path(f"tasks/{task}.yaml")
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def read_as_csv() -> None:
    edit_task("dataset_path: json", "dataset_path: csv")


def targets() -> list[Any]:
    (task,) = load_task("sums").leaves.values()
    return [task.doc_to_target(doc) for doc in task.eval_docs]


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([93, 40, 2.5], ["93", "40", "2.5"]),
        ([93, 2**70], ["93", str(2**70)]),
        ([1, "1"], ["1", "1"]),
        (["2024-01-02", "2024-02-03"], ["2024-01-02", "2024-02-03"]),
        (["2024-01-02T03:04:05Z", "x"], ["2024-01-02T03:04:05Z", "x"]),
        (["007", "NA", "null", "1e5", ""], ["007", "NA", "null", "1e5", ""]),
        ([1.0, 2.5], ["1.0", "2.5"]),
        (['{"x": 1}', "[a"], ['{"x": 1}', "[a"]),
        (["a\u2028b\x85c", "d"], ["a\u2028b\x85c", "d"]),
    ],
)
def test_a_value_of_json_stays_what_the_file_says(values: list[Any], expected: list[str]) -> None:
    write(rows(*values))
    assert targets() == expected


@pytest.mark.usefixtures("project")
def test_a_value_of_csv_is_the_text_in_the_file() -> None:
    read_as_csv()
    write('question,answer\nq,NA\nr,007\ns,1e5\nt,None\nu,"a, ""b"""\nv,\n')
    assert targets() == ["NA", "007", "1e5", "None", 'a, "b"', ""]


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("values", "template", "expected"),
    [
        ("1 0", "{{ 'yes' if answer == 1 else 'no' }}", ["yes", "no"]),
        ("1 0", "{{ 'yes' if answer else 'no' }}", ["yes", "no"]),
        ("1 -2", "{{ answer + 1 }}", ["2", "-1"]),
        ("0.5 12.25", "{{ answer * 2 }}", ["1.0", "24.5"]),
        ("True False", "{{ 'yes' if answer else 'no' }}", ["yes", "no"]),
        ("True False", "{{ answer }}", ["True", "False"]),
        ("9223372036854775807 0", "{{ answer }}", ["9223372036854775807", "0"]),
    ],
)
def test_templates_compute_with_a_column_of_csv_as_in_lm_eval(
    values: str, template: str, expected: list[str]
) -> None:
    read_as_csv()
    edit_task("{{answer}}", template)
    write("question,answer\n" + "".join(f"q{v},{v}\n" for v in values.split()))
    assert targets() == expected


@pytest.mark.parametrize(
    "values",
    [
        ["1", "007"],
        ["1", ""],
        ["93", "2.5"],
        ["1.5", "2.50"],
        ["1.5", "nan"],
        ["1.5", "inf"],
        ["1", str(2**63)],
        ["1", "9" * 5000],
        ["1", "\N{ARABIC-INDIC DIGIT THREE}"],
        ["1", " 2"],
        ["True", "true"],
        ["True", "1"],
    ],
)
def test_a_column_of_csv_with_any_other_text_is_text(tmp_path: Path, values: list[str]) -> None:
    path = tmp_path / "data.csv"
    path.write_text("".join(f'"{value}"\n' for value in ["answer", *values]), encoding="utf-8")
    data, *_ = read_splits("csv", {"test": [path]})
    assert data["test"]["answer"] == values


@pytest.mark.parametrize(
    ("train", "test", "kinds"),
    [("1\n2\n", "3\n", {int}), ("1\nNA\n", "3\n", {str}), ("1\n", '""\n', {int, str})],
)
def test_a_column_of_csv_has_one_type_in_all_splits_that_fill_it(
    tmp_path: Path, train: str, test: str, kinds: set[type]
) -> None:
    files = {}
    for split, text in {"train": train, "test": test}.items():
        files[split] = [tmp_path / split]
        files[split][0].write_text("answer\n" + text)
    data, *_ = read_splits("csv", files)
    assert {type(value) for split in data.values() for value in split["answer"]} == kinds


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("labels", "options", "golds"),
    [
        ("0 2 1", "[one, two, three]", [0, 2, 1]),
        ("True False True", '["False", "True", "Unknown"]', [1, 0, 1]),
        ("B C A", '["A", "B", "C"]', ["B", "C", "A"]),
    ],
)
def test_labels_of_csv_are_understood_as_those_of_json(
    labels: str, options: str, golds: list[Any]
) -> None:
    edit_task("dataset_path: json", "dataset_path: csv", "choices")
    edit_task('["A", "B", "C"]', options, "choices")
    text = "".join(f"q{n},{label}\n" for n, label in enumerate(labels.split()))
    write("question,label\n" + text, Path("tasks/data/choices.jsonl"))
    (task,) = load_task("choices").leaves.values()
    assert [task.doc_to_target(doc) for doc in task.eval_docs] == golds


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("pack", "ending"), [(gzip.compress, ".gz"), (bz2.compress, ".bz2"), (lzma.compress, ".xz")]
)
def test_packed_files_are_read_as_they_are_written(
    pack: Callable[[bytes], bytes], ending: str
) -> None:
    path = SUMS.with_name(f"sums.jsonl{ending}")
    path.write_bytes(pack(rows(93, 2.5, "2024-01-02").encode()))
    edit_task("sums.jsonl", path.name)
    assert targets() == ["93", "2.5", "2024-01-02"]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"cannot be unpacked"):
        targets()


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("option", ['delimiter: ";"', 'sep: ";"'])
def test_columns_may_stand_apart_by_another_letter(option: str) -> None:
    read_as_csv()
    edit_task("{data_files", f"{{{option}, data_files")
    write("question;answer\nq;007\nq,;1e5\n")
    assert targets() == ["007", "1e5"]


@pytest.mark.usefixtures("project")
def test_a_list_within_json_is_read_as_it_is_written() -> None:
    edit_task("{data_files", "{field: data, data_files")
    items = [json.loads(line) for line in rows(93, 2.5).splitlines()]
    write(json.dumps({"version": 1, "data": items}, indent=2))
    assert targets() == ["93", "2.5"]
    write(json.dumps({"dat": items}))
    with pytest.raises(UserError, match="field 'data': there is no such list"):
        targets()


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("{data_files: {test: tasks/data/sums.jsonl}, chunksize: 9}", "unknown key 'chunksize'"),
        ("{data_dir: tasks/data}", "data_files: name the json files there"),
        ("{data_files: {test: tasks/data/sums.zip}}", "sums.zip: unpack it"),
        ('{data_files: {test: "zip://a.json::tasks/data/sums.zip"}}', "unpack it"),
    ],
)
def test_what_only_a_guessing_loader_could_read_is_refused(options: str, says: str) -> None:
    SUMS.with_name("sums.zip").touch()
    edit_task("{data_files: {test: tasks/data/sums.jsonl}}", options)
    with pytest.raises(UserError, match=says):
        targets()


@pytest.mark.usefixtures("project")
def test_a_name_is_no_pattern_where_there_is_such_a_file() -> None:
    edit_task("test: tasks/data/sums.jsonl", 'test: "tasks/data/q[1].jsonl"')
    write(rows("right"), SUMS.with_name("q[1].jsonl"))
    write(rows("wrong"), SUMS.with_name("q1.jsonl"))
    assert targets() == ["right"]


@pytest.mark.usefixtures("project")
def test_an_older_version_of_the_data_never_comes_from_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "shared"))
    write(rows("a"))
    stat = SUMS.stat()
    assert targets() == ["a"]
    write(rows("b"))
    os.utime(SUMS, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert targets() == ["b"]


def test_local_data_of_other_kinds_has_a_cache_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    with lm_eval_environment(offline=True, private_cache=False):
        assert os.environ["HF_DATASETS_CACHE"] == str(tmp_path)
    with lm_eval_environment(offline=True, private_cache=True):
        assert os.environ["HF_DATASETS_CACHE"] != str(tmp_path)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        (rows(1).replace("1}", "NaN}"), "sums.jsonl, line 1, column 'answer': NaN is no value"),
        (rows(1).replace("1}", "-Infinity}"), "line 1, column 'answer': -Infinity is no value"),
        (rows(1) + rows([1]).replace("[1]", "[NaN]"), "line 2, column 'answer': NaN is no value"),
        (rows(1, None), "item 1: column 'answer' is None, and doc_to_target prints it"),
        (rows(1) + '{"question": "q"}\n', "item 1: column 'answer' is None"),
        (
            rows(1) + '{"question": null, "answer": 1}\n',
            "column 'question' is None, and doc_to_text",
        ),
        (rows(1) + "[1, 2]\n", "line 2: expected an object"),
        (rows(1) + '{"question": "q", "answer": 1, "answer": 2}\n', "key 'answer' is given twice"),
        (rows(1) + '{"question": "q"', "line 2: not valid JSON"),
        (rows(1) + "[" * 100_000, "line 2: not valid JSON"),
        ("\n\n", "its data has no items"),
    ],
)
def test_what_is_no_value_is_refused_with_its_place(text: str, says: str) -> None:
    write(text)
    with pytest.raises(UserError) as caught:
        targets()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("question,answer\nq\n", "row 2: has another number of columns than row 1"),
        ("question,answer\nq,1,2\n", "row 2: has another number of columns than row 1"),
        ('question,answer\nq,"1\n', "cannot be read as CSV"),
        ("question,answer,answer\nq,1,2\n", "row 1: column 'answer' is given twice"),
    ],
)
def test_rows_of_csv_that_do_not_fit_are_refused(text: str, says: str) -> None:
    read_as_csv()
    write(text)
    with pytest.raises(UserError, match=says):
        targets()


@pytest.mark.usefixtures("project")
def test_rows_that_a_quotation_mark_makes_one_are_refused() -> None:
    read_as_csv()
    edit_task("{data_files", '{delimiter: "\\t", data_files')
    write('question\tanswer\n"Go, he said.\t1\nr\t2\nNo. "Come"\t3\n')
    with pytest.raises(UserError, match="cannot be read as CSV"):
        targets()
    write('question\tanswer\np\t0\n"Go, he said.\t1\nr\t2\nHe said: Come"\t3\n')
    with pytest.raises(
        UserError, match="row 3: a quotation mark that opens a cell makes 3 rows one"
    ):
        targets()
    write('question\tanswer\n"of\ntwo lines"\t1\n"a\tb\n\tc"\t2\n')
    assert targets() == ["1", "2"]


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    "content",
    [
        {"question": {"0": "q", "1": "r"}, "answer": {"0": 1, "1": 2}},
        {"question": ["q", "r"], "answer": [1, 2]},
        {"columns": ["question", "answer"], "index": [0], "data": [["q", 1]]},
        {"schema": {"fields": []}, "data": [{"question": "q", "answer": 1}]},
    ],
)
def test_a_table_in_one_object_is_no_item(content: dict[str, Any]) -> None:
    write(json.dumps(content) + "\n")
    with pytest.raises(UserError, match=r"sums\.jsonl: is one object of columns or rows"):
        targets()


@pytest.mark.usefixtures("project")
def test_bytes_that_are_no_text_are_refused() -> None:
    SUMS.write_bytes(b'{"question": "caf\xe9", "answer": 1}\n')
    with pytest.raises(UserError, match=r"sums\.jsonl: not UTF-8 text"):
        targets()


Change = Callable[[dict[str, Any]], None]


def choices(change: Change) -> None:
    path = Path("tasks/data/choices.jsonl")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    change(records[1])
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("label", [-1, 3, "D", "", None, 1.5, "one", [0, 9]])
def test_a_label_that_names_no_option_is_refused(label: Any) -> None:
    choices(lambda record: record.update(label=label))
    with pytest.raises(UserError, match=r"task 'choices', item 1: "):
        load_task("choices")


@pytest.mark.parametrize(
    ("label", "number"),
    [(0, 0), (2, 2), ("B", 1), ("c", 2), ("1", 1), ("two", 1), (2.0, 2), (numpy.int32(1), 1)],
)
def test_a_label_is_understood_as_text_number_or_letter(label: Any, number: int) -> None:
    options = ["one", "two", "three"]
    assert LabelReader([(label, options)]).number(label, options) == number


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("type_", ["numpy.int32", "numpy.float64", "float"])
def test_a_helper_may_give_a_label_as_any_kind_of_number(type_: str) -> None:
    Path("tasks/helpers.py").write_text(
        f"import numpy\n\ndef label(doc):\n    return {type_}(doc['label'])\n"
    )
    edit_task("doc_to_target: label", "doc_to_target: !function helpers.label", "choices")
    task = load_task("choices").leaves["choices"]
    labels = [task.doc_to_target(doc) for doc in task.eval_docs]
    assert labels == [i % 3 for i in range(8)]
    assert {type(label) for label in labels} == {int}  # as lm-eval wants them in examples


@pytest.mark.usefixtures("project")
def test_labels_in_letters_are_scored_as_numbers() -> None:
    edit_task('["A", "B", "C"]', "[one, two, three]", "choices")
    choices(lambda record: record.update(label="C"))
    (task,) = load_task("choices").leaves.values()
    golds = [task.doc_to_target(doc) for doc in task.eval_docs]
    assert golds[1] == 2
    assert all(isinstance(gold, int) for gold in golds)


@pytest.mark.usefixtures("project")
def test_options_in_one_text_are_refused() -> None:
    edit_task('doc_to_choice: ["A", "B", "C"]', "doc_to_choice: options", "choices")
    path = Path("tasks/data/choices.jsonl")
    records = [json.loads(line) | {"options": '["A", "B"]'} for line in path.open()]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(UserError, match=r"options .*: not a list of texts"):
        load_task("choices")


@pytest.mark.usefixtures("project")
def test_items_that_are_drawn_at_random_are_refused() -> None:
    Path("tasks/helpers.py").write_text(
        "import random\n\nGENERATOR = random.Random(1)\n\n\ndef shuffled(docs):\n"
        "    return docs.select(GENERATOR.sample(range(len(docs)), len(docs)))\n"
    )
    text = Path("tasks/sums.yaml").read_text()
    Path("tasks/sums.yaml").write_text(text + "process_docs: !function helpers.shuffled\n")
    with pytest.raises(UserError, match=r"task 'sums', item \d: is another one each time"):
        load_task("sums")


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
records = st.dictionaries(st.sampled_from("abc"), values, min_size=1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(written=st.lists(records, min_size=1, max_size=6))
def test_json_comes_back_as_it_was_written_or_is_refused(
    tmp_path: Path, written: list[dict[str, Any]]
) -> None:
    path = tmp_path / "data.jsonl"
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in written)
    path.write_text("".join(lines), encoding="utf-8", newline="")
    try:
        data = read_splits("json", {"test": [path]})[0]["test"]
    except UserError as error:
        assert "would become" in str(error) or "is one object of columns" in str(error)
        return
    columns = {key for record in written for key in record}
    for record, row in zip(written, data, strict=True):
        assert {key: str(row[key]) for key in row} == {k: str(record.get(k)) for k in columns}
