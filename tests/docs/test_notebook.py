"""The notebook in docs/ works in a project, from its first cell to its last."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fastdllm.records.summary import Summary

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs/notebook.ipynb"


def code_cells() -> list[str]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def shown(source: str, names: dict[str, Any]) -> Any:
    """Run a cell as a kernel does, and return the value of its last line, if it has one."""
    *statements, last = ast.parse(source).body
    if not isinstance(last, ast.Expr):
        statements.append(last)
    exec(compile(ast.Module(statements, []), NOTEBOOK.name, "exec"), names)
    if not isinstance(last, ast.Expr):
        return None
    return eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names)


def test_it_holds_no_output() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]


@pytest.mark.slow
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("models", "tasks", "experiments"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "workflow_config.yaml", tmp_path)
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path / "docs")
    names: dict[str, Any] = {}
    values = [shown(cell, names) for cell in code_cells()]
    plain, faster, message, table, items = (value for value in values if value is not None)
    assert isinstance(plain, Summary)
    assert plain.eval_params["n_items"] == 10
    assert "did you mean 'threshold'" in message
    assert table["threshold"].tolist() == [0.5, 0.9]
    assert table["accuracy"].tolist() == [faster[0], plain.accuracy]
    assert len(items) == round(sum(10 * (1 - table["accuracy"])))
