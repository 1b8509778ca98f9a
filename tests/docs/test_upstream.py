"""docs/upstream.md cites lines of installed packages: each is there, in the version named."""

from __future__ import annotations

import re
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[2] / "docs" / "upstream.md").read_text(encoding="utf-8")
# `package/file.py:12`: `code of that line`
CITED = re.findall(r"`(\w+)/([\w/]+\.py):(\d+)`:\s+`([^`]+)`", TEXT)
HEADINGS = re.findall(r"^## (\S+) (\d\S*)$", TEXT, flags=re.M)


def test_enough_lines_are_cited() -> None:
    assert len(CITED) >= 20 and len(HEADINGS) == 7


@pytest.mark.parametrize(("package", "named"), HEADINGS)
def test_a_version_is_the_installed_one(package: str, named: str) -> None:
    assert version(package) == named, f"look again at what docs/upstream.md says of {package}"


@pytest.mark.parametrize(("package", "file", "number", "code"), CITED)
def test_a_cited_line_is_there(package: str, file: str, number: str, code: str) -> None:
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None
    lines = (
        Path(spec.origin).with_name("__init__.py").parent.joinpath(file).read_text().splitlines()
    )
    assert code in lines[int(number) - 1], f"{package}/{file} has changed: is it still a defect?"
