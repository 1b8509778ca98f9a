"""Dependencies between the packages of fastdllm point one way, function-level imports included."""

from __future__ import annotations

import ast
from pathlib import Path

import fastdllm

ROOT = Path(fastdllm.__file__).parent
# From the ground up: a package imports from those before it, and from the modules beside them.
LAYERS = (
    "cluster",
    "evaluation",
    "benchmark",
    "sensitivity",
    "report",
    "workflow",
    "estimate",
    "fetching",
    "doctor",
    "commands",
)
# Modules beside the packages that stand on some of them; only higher packages may import these.
COMPOSING = {
    "launch": "cluster",
    "prepare": "fetching",
    "entry": "fetching",
    "cli": "commands",
    "__main__": "commands",
}


def imported_by(path: Path) -> set[str]:
    """The parts of fastdllm that a file imports from: packages, or modules beside them."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "fastdllm":
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fastdllm."):
            found.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {n.name.split(".")[1] for n in node.names if n.name.startswith("fastdllm.")}
    return found


def height(part: str) -> int:
    """The place of a package or module in `LAYERS`; -1 for a module that stands on no package."""
    layer = COMPOSING.get(part, part)
    return LAYERS.index(layer) if layer in LAYERS else -1


def test_each_package_has_its_layer() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == set(LAYERS)


def test_packages_import_from_below_only() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {part}"
        for layer in LAYERS
        for path in (ROOT / layer).rglob("*.py")
        for part in imported_by(path) - {layer}
        if height(part) >= height(layer)
    ]
    assert not wrong


def test_modules_beside_the_packages_stand_on_what_is_said() -> None:
    wrong = [
        f"{path.name} imports {part}"
        for path in ROOT.glob("*.py")
        for part in imported_by(path) - {path.stem}
        if height(part) > height(path.stem)
    ]
    assert not wrong
