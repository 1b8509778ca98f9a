"""YAML as people write it: what it cannot mean is one line with the file and the line number."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastdllm.common.errors import UserError
from fastdllm.common.yaml_files import read_yaml_mapping


def read(folder: Path, text: str) -> dict:
    path = folder / "task.yaml"
    path.write_text(text)
    return read_yaml_mapping(path, what="a task")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("doc_to_text: {{question}}\n", "needs quotes around it"),
        ("doc_to_text: {{question}} = {{result}}\n", "needs quotes around it"),
        ("doc_to_text: {{question}\n", "needs quotes around it"),
        ("doc_to_choice:\n- {{a}}\n", "needs quotes around it"),
        ("? [a, b]\n: 1\n", "a key must be text"),
        ("[a, b]: 1\n", "a key must be text"),
        ("? !function utils.f\n: 1\n", "a key must be text"),
        ("metadata:\n  a: 1\n  a: 2\n", "key 'a' is given twice"),
        ("title: 2024-13-45\n", "not valid YAML"),
        ("a: [1\n", "not valid YAML"),
        ("chunk_size: 010\n", "line 1: not valid YAML: 010 means 8 in YAML; write that"),
        ("layers: [first, 3:8]\n", "3:8 means 188 in YAML"),
    ],
)
def test_yaml_that_means_something_else_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/task.yaml")
    assert says in message
    assert "\n" not in message


def test_the_line_of_an_unquoted_template_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"task\.yaml, line 3: "):
        read(tmp_path, "task: words\n# a comment\ndoc_to_text: {{question}}\n")


def test_other_numbers_are_what_they_seem(tmp_path: Path) -> None:
    values = read(tmp_path, "a: [0, -1, 1_000, 0x10, 08, '010', '3:8', 0.5, 00.5]\n")
    assert values == {"a": [0, -1, 1000, 16, "08", "010", "3:8", 0.5, 0.5]}


def test_the_quoted_template_and_the_merge_key_are_fine(tmp_path: Path) -> None:
    values = read(tmp_path, 'base: &b {x: 1}\ntext: "{{question}}"\nmore: {<<: *b, y: 2}\n')
    assert values == {"base": {"x": 1}, "text": "{{question}}", "more": {"x": 1, "y": 2}}
