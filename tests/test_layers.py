"""The house: packages in one order, imports that point down it, and no cycles between modules."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import fastdllm
from fastdllm.runs.decoder_code import source_files

ROOT = Path(fastdllm.__file__).parent
# From the ground up: a part imports only from parts before it, and from within itself.
ORDER = (
    "version",
    "common",
    "validation",
    "settings",
    "policy",
    "machine",
    "sandbox",
    "model",
    "engine",
    "cluster",
    "records",
    "decoding",
    "serving",
    "statistics",
    "tasks",
    "traces",
    "runs",
    "speed",
    "workflow.project",
    "harness",
    "workflow.status",
    "workflow",
    "single",
    "launch",
    "tools.bench",
    "tools.doctor",
    "tools.estimate",
    "tools.fetching",
    "tools.sensitivity",
    "report",
    "entry",
    "chat",
    "endpoint",
    "web",
    "commands",
    "cli",
    "__main__",
)

# Parts that import no torch: they answer on a log-in node, or before a model is loaded.
WITHOUT_TORCH = (
    "version",
    "common",
    "validation",
    "settings",
    "policy",
    "sandbox",
    "cluster",
    "records",
    "statistics",
    "workflow.project",
    "workflow.status",
    "workflow",
    "single",
    "launch",
    "tools.doctor",
    "tools.estimate",
    "tools.fetching",
    "report",
    "entry",
    "chat",
    "commands",
    "cli",
)
# The same of modules in other parts.
MODULES_WITHOUT_TORCH = (
    "machine.cgroups",
    "machine.gpus",
    "machine.hub_cache",
    "machine.process",
    "model.checkpoint",
    "model.config",
    "decoding.events",
    "decoding.policy_files",
    "decoding.sequence",
    "decoding.user_code",
    "speed.speed_spec",
    "speed.combining",
    "harness.own_tasks",
    "traces.exports",
    "traces.record",
    "traces.samples",
    "traces.trace_page",
    "serving.conversation",
    "serving.partial",
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


def part_of(module: str) -> str:
    """The part of `ORDER` that a module belongs to, the longest that fits."""
    parts = [part for part in ORDER if module == part or module.startswith(f"{part}.")]
    return max(parts, key=len, default="")


def imports() -> dict[str, set[str]]:
    """For each module, the modules under `fastdllm` that it imports."""
    known = modules()
    return {module: imports_of(path) & known.keys() for module, path in known.items()}


def test_every_module_has_its_part() -> None:
    assert not [module for module in modules() if not part_of(module)]


def test_every_part_exists() -> None:
    assert not [part for part in ORDER if not any(part_of(module) == part for module in modules())]


# What a chunk's decoding imports and yet decides no token: what may grow is said here.
DECIDE_NOTHING = {
    *("common", "machine", "cluster.slurm", "records", "validation", "version"),
    *("runs.answer_records", "runs.chunk_in_flight", "runs.progress", "runs.shards", "runs.spec"),
    *("runs.stopping", "tasks.plan", "tasks.task_source"),
}


def test_the_digest_of_the_decoder_has_all_that_decoding_imports() -> None:
    known, reached = imports(), {"runs.chunk_engine", "runs.loaded_model"}
    while new := {other for module in reached for other in known[module]} - reached:
        reached |= new
    digested = {path.relative_to(ROOT).with_suffix("") for path in source_files()}
    undigested = reached - {".".join(path.parts) for path in digested}
    assert not [
        module
        for module in undigested
        if not any(module == name or module.startswith(f"{name}.") for name in DECIDE_NOTHING)
    ]


def test_imports_point_down() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, others in imports().items()
        for other in others
        if ORDER.index(part_of(other)) > ORDER.index(part_of(module))
    ]
    assert not wrong


def test_no_module_imports_itself_through_others() -> None:
    graph = imports()
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_tools_do_not_use_each_other() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, others in imports().items()
        for other in others
        if module.startswith("tools.") and other.startswith("tools.")
        if module.split(".")[1] != other.split(".")[1]
    ]
    assert not wrong


@pytest.mark.slow
@pytest.mark.slow
def test_what_must_answer_at_once_imports_no_torch() -> None:
    parts = {*WITHOUT_TORCH, *MODULES_WITHOUT_TORCH}
    names = [name for name in modules() if not parts.isdisjoint((name, part_of(name)))]
    assert {part for name in names for part in (name, part_of(name))} >= parts
    code = f"""
import importlib, sys
for name in {names}:
    importlib.import_module("fastdllm." + name)
    assert 'torch' not in sys.modules, name
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_two_modules_share_a_name() -> None:
    """A command's module is named after the command; every other name means one module."""
    names = Counter(
        name.rpartition(".")[2] for name in modules() if not name.startswith("commands.")
    )
    assert not [name for name, count in names.items() if count > 1]


def test_no_two_public_classes_share_a_name() -> None:
    names = Counter(
        node.name
        for path in modules().values()
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert not [name for name, count in names.items() if count > 1]
