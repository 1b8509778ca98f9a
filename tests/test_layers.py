"""The house: packages in one order, imports that point down it, and no cycles between modules."""

from __future__ import annotations

import ast
from pathlib import Path

import fastdllm

ROOT = Path(fastdllm.__file__).parent
# From the ground up: a part imports only from parts before it, and from within itself.
ORDER = (
    "version",
    "common",
    "validation",
    "settings",
    "policy",
    "machine",
    "model",
    "engine",
    "cluster",
    "results",
    "decoding",
    "statistics",
    "tasks",
    "runs",
    "workflow.project",
    "workflow.status",
    "workflow",
    "tools",
)


def modules() -> dict[str, Path]:
    """All modules of the package by their dotted name under `fastdllm`."""
    paths = [path for path in ROOT.rglob("*.py") if path.name != "__init__.py"]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}


def imports_of(path: Path) -> set[str]:
    """The names under `fastdllm` that a file imports, also in functions and for type checking."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fastdllm":
            base = str(node.module)
            found |= {base, *(f"{base}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {name.removeprefix("fastdllm.") for name in found if name.startswith("fastdllm.")}


def part_of(module: str) -> str | None:
    """The part of `ORDER` that a module belongs to, the longest that fits."""
    parts = [part for part in ORDER if module == part or module.startswith(f"{part}.")]
    return max(parts, key=len, default=None)


def test_imports_point_down() -> None:
    known = modules()
    wrong = []
    for module, path in known.items():
        own = part_of(module)
        for name in imports_of(path) & known.keys():
            other = part_of(name)
            if own and other and ORDER.index(other) > ORDER.index(own):
                wrong.append(f"{module} imports {name}")
    assert not wrong
