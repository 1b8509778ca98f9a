"""The map of the code in docs/architecture.md is up to date; what pages name and link to exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from scripts.draw_architecture import PAGE, ROOT, direct, with_map
from tests.docs.test_commands import PAGES

# A file or folder of this project in backticks; in the map with names: `path`: `name`, `name`.
FOLDERS = r"fastdllm|scripts|tests|benchmarks|training|rules|snakemake_executor_plugin_\w+"
FILE = re.compile(rf"`((?:{FOLDERS})/(?:[\w/.]+\.(?:py|smk)|[\w/]*/)?)`")
NAMED = re.compile(FILE.pattern + r":((?:,? `[\w.]+`)+)")


# A link to a file of this project, and to a heading in it.
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)")
MOST_BYTES_OF_A_PICTURE = 200_000


def defined_in(path: Path) -> set[str]:
    """The classes, functions and constants of a file, and methods and fields as `Class.name`."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names |= _names(node)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{name}" for inner in node.body for name in _names(inner)}
    return names


def _names(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    return {target.id for target in targets if isinstance(target, ast.Name)}


def test_the_map_shows_the_imports_of_today() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == with_map(text), "run: python -m scripts.draw_architecture"


def test_an_arrow_that_follows_from_others_is_left_out() -> None:
    graph = {"a": {"b", "c", "d"}, "b": {"c"}, "c": {"d"}, "d": set[str]()}
    assert direct(graph) == {"a": ["b"], "b": ["c"], "c": ["d"], "d": []}


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md", "benchmarks/README.md"])
def test_every_file_that_a_page_names_exists(page: str) -> None:
    named = FILE.findall((ROOT / page).read_text(encoding="utf-8"))
    assert not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md", "benchmarks/README.md"])
def test_every_link_leads_to_a_file_and_a_heading(page: str) -> None:
    links = LINK.findall((ROOT / page).read_text(encoding="utf-8"))
    found = [((ROOT / page).parent / file if file else ROOT / page, name) for file, name in links]
    assert not [file for file, _ in found if not file.exists()]
    assert not [(file, name) for file, name in found if name and name not in headings(file)]


def headings(page: Path) -> set[str]:
    """The headings of a page as links write them."""
    lines = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines}


def test_pictures_are_small() -> None:
    pictures = list((ROOT / "docs" / "images").iterdir())
    assert pictures
    assert max(path.stat().st_size for path in pictures) < MOST_BYTES_OF_A_PICTURE


def test_every_function_that_the_map_names_exists() -> None:
    named = NAMED.findall(PAGE.read_text(encoding="utf-8"))
    wrong = [
        f"{path}: {name}"
        for path, names in named
        for name in re.findall(r"`([\w.]+)`", names)
        if name not in defined_in(ROOT / path)
    ]
    assert len(named) >= 20 and not wrong
