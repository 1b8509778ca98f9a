"""Random files of data: each value as it was written, or one line that says why not."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fastdllm.cli import main
from fastdllm.common.errors import UserError
from fastdllm.tasks.local_data import read_splits
from tests.support.mutations import mutated_json

RANDOM = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
COLUMNS = ["question", "answer"]
# Letters of JSON and CSV, of which random texts are often nearly valid.
PIECES = st.sampled_from(
    [*'{}[]":,\\\n\r\t ab1-.', '{"a": ', '"a"', "1e999", "NaN", "null", "\\ud800", "\0", "\u2028"]
)


@RANDOM
@given(table=st.lists(st.tuples(st.text(max_size=6), st.text(max_size=6)), min_size=1, max_size=5))
def test_csv_comes_back_as_it_was_written(tmp_path: Path, table: list[tuple[str, str]]) -> None:
    path = tmp_path / "data.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([COLUMNS, *table])
    data, places, _ = read_splits("csv", {"test": [path]})
    assert [tuple(str(row[name]) for name in COLUMNS) for row in data["test"]] == table
    assert places["test"] == [f"{path}, row {number + 2}" for number in range(len(table))]


@RANDOM
@pytest.mark.parametrize("builder", ["json", "csv"])
@given(content=st.binary(max_size=40) | st.lists(PIECES, max_size=20).map("".join).map(str.encode))
@example(content=b"{}")
@example(content=b'{"\\u0000": "a"}')
@example(content=b"\0\n\0")
def test_any_bytes_are_data_or_refused_in_one_line(
    tmp_path: Path, builder: str, content: bytes
) -> None:
    path = tmp_path / f"data.{builder}"
    path.write_bytes(content)
    try:
        data, places, _ = read_splits(builder, {"test": [path]})
    except UserError as error:
        assert str(error).startswith(str(path))
        assert len(str(error).splitlines()) == 1
    else:
        assert len(data["test"]) == len(places["test"])


@RANDOM
@given(data=st.data())
def test_a_packed_file_that_was_damaged_is_read_as_it_was_or_refused(
    tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "data.jsonl.gz"
    packed = gzip.compress(b'{"question": "q"}\n' * 20, mtime=0)
    at = data.draw(st.integers(0, len(packed) - 1))
    cut = data.draw(st.booleans())
    changed = bytes([packed[at] ^ data.draw(st.integers(1, 255))]) + packed[at + 1 :]
    path.write_bytes(packed[:at] + (b"" if cut else changed))
    try:
        found, *_ = read_splits("json", {"test": [path]})
    except UserError as error:
        assert len(str(error).splitlines()) == 1
    else:
        # The header has bytes that do not matter; an empty file is an empty packed one.
        assert [row["question"] for row in found["test"]] in (["q"] * 20, [])


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("task", ["sums", "choices"])
@settings(RANDOM, max_examples=30)
@given(data=st.data())
def test_a_damaged_task_is_planned_or_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], data: st.DataObject, task: str
) -> None:
    file = Path(f"tasks/{task}.yaml")
    original = file.read_bytes()
    # JSON is YAML, too.
    content, _ = data.draw(mutated_json(json.dumps(yaml.safe_load(original)).encode()))
    file.write_bytes(content)
    try:
        code = main(["plan", "--task", task])
    finally:
        file.write_bytes(original)
    lines = capsys.readouterr().err.strip().split("\n")
    assert code == 0 or (code == 2 and lines[-1].startswith("fastdllm: "))
    # What is planned may be remarked on, such as equal targets.
    assert code == 0 or sum(line.startswith("fastdllm: ") for line in lines) == 1
