"""The messages that docs/troubleshooting.md explains are those of the code."""

from __future__ import annotations

import ast
import re
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
# The first column of a table names what a person sees; `...` there is what differs each time.
FIRST_COLUMN = re.compile(r"^\| ([^|]+) \|", flags=re.M)
MESSAGE = re.compile(r"`([^`]* [^`]*)`")


def explained_messages() -> list[str]:
    cells = FIRST_COLUMN.findall(PAGE.read_text(encoding="utf-8"))
    return list(chain.from_iterable(map(MESSAGE.findall, cells)))


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """All texts of the code; of an f-string what stands between its values, with a gap for each."""
    folders = (ROOT / "fastdllm", ROOT / "snakemake_executor_plugin_fastdllm_slurm")
    texts_found = []
    for path in chain.from_iterable(folder.rglob("*.py") for folder in folders):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [getattr(part, "value", None) for part in node.values]
                texts_found.append("\0".join(part for part in parts if isinstance(part, str)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts_found.append(node.value)
    return texts_found


def test_enough_messages_are_found() -> None:
    assert len(explained_messages()) >= 12


@pytest.mark.parametrize("message", explained_messages())
def test_an_explained_message_is_one_of_the_code(message: str, texts: list[str]) -> None:
    for part in filter(None, (part.strip(" ,;:") for part in message.split("..."))):
        assert any(part in text for text in texts), part
