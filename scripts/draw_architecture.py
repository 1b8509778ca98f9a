"""Draw the packages and their imports into docs/architecture.md, as a Mermaid chart and a table.

Knows no package by name: order and imports come from tests/test_layers.py, the sentences from the
docstrings of the packages. Run after a change of either: python -m scripts.draw_architecture
"""

import ast
from collections.abc import Mapping
from pathlib import Path

from tests.test_layers import ORDER, WITHOUT_TORCH, imports, imports_of, part_of

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
PLUGIN = "snakemake_executor_plugin_fastdllm_slurm"
# What no import of a Python file shows: the Snakefile is none, and cli loads a command when called.
DASHED = (("Snakefile", "entry"), ("cli", "commands"))
BEGIN = "<!-- map: begin (python -m scripts.draw_architecture) -->\n"
END = "<!-- map: end -->"


def package_imports() -> dict[str, set[str]]:
    """For each package, and each module in the root, the others that it imports."""
    graph: dict[str, set[str]] = {part: set() for part in (*ORDER, PLUGIN)}
    for module, others in imports().items():
        graph[part_of(module)] |= {part_of(other) for other in others}
    for path in (ROOT / PLUGIN).rglob("*.py"):
        graph[PLUGIN] |= {part_of(name) for name in imports_of(path)}
    return {part: others - {part, ""} for part, others in graph.items()}


def direct(graph: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """The imports that do not follow from others: without a -> c where a -> b -> ... -> c."""

    def below(part: str) -> set[str]:
        return graph[part].union(*(below(other) for other in graph[part]))

    implied = {part: set().union(*map(below, others)) for part, others in graph.items()}
    return {part: sorted(others - implied[part]) for part, others in graph.items()}


def mermaid() -> str:
    """The picture: a box for each package, grey where torch is not imported."""
    lines = ["```mermaid", "flowchart TD"]
    arrows = direct(package_imports())
    for part in arrows:
        lines.append(f'  {_identifier(part)}["{part}"]')
    for part, others in arrows.items():
        lines += [f"  {_identifier(part)} --> {_identifier(other)}" for other in others]
    lines += [f"  {_identifier(part)} -.-> {_identifier(other)}" for part, other in DASHED]
    grey = ",".join(_identifier(part) for part in (*WITHOUT_TORCH, PLUGIN))
    lines += ["  classDef grey fill:#eee,stroke:#999,color:#000", f"  class {grey} grey", "```"]
    return "".join(f"{line}\n" for line in lines)


def table() -> str:
    """What each package is for, from the top down."""
    lines = ["| package | what it is |", "|---|---|"]
    for part in (PLUGIN, *reversed(ORDER)):
        lines.append(f"| `{part}` | {_purpose(part)} |")
    return "".join(f"{line}\n" for line in lines)


def with_map(page: str) -> str:
    """The text of docs/architecture.md with picture and table between its two markers."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}{mermaid()}\n{table()}{END}{rest.partition(END)[2]}"


def _identifier(part: str) -> str:
    """A name that Mermaid takes for a box."""
    return part.replace(".", "_").strip("_")


def _purpose(part: str) -> str:
    """The first two paragraphs of a package's docstring; of the plugin or a module, the first."""
    package = ROOT / (part if part == PLUGIN else f"fastdllm/{part.replace('.', '/')}")
    is_module = not package.is_dir()
    path = package.with_suffix(".py") if is_module else package / "__init__.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraphs = text.split("\n\n")[: 1 if is_module or part == PLUGIN else 2]
    return " ".join(" ".join(paragraphs).split())


def main() -> None:
    """Renew the map."""
    PAGE.write_text(with_map(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
