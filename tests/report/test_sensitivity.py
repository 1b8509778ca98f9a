"""The sensitivity record on the page: what is read of it, and what a damaged one does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fastdllm.report import plot_specs as charts
from fastdllm.report.sensitivity_map import newest, read_sensitivity
from tests.support import made_up_runs as synthetic


def written(path: Path, **changed: Any) -> Path:
    path.write_text(json.dumps(synthetic.sensitivity() | changed))
    return path


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"schema_version": 2}, "schema_version: Input should be 1"),
        ({"layers": "many"}, "layers: Input should be a valid integer"),
        ({"passes": [1, 2]}, "passes has 2 entries for 12 steps"),
        ({"delta_change": [[0.1]]}, "delta_change is not 14 layers x 12 steps"),
        ({"spans": [{"layers": [0, 2], "saving": 0.1}]}, "spans.0.damage: Field required"),
        ({"token_changed": [["much"]]}, "token_changed.0.0: Input should be a valid number"),
        ({"input_change": [[float("nan")]]}, "input_change.0.0: NaN is no number"),
    ],
)
def test_a_damaged_record_is_named_and_left_out(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    bad = written(tmp_path / "bad.json", **changed)
    good = written(tmp_path / "good.json")
    chosen, problems = newest([bad, good], None)
    assert chosen is not None and chosen.path == good
    (problem,) = problems
    assert problem.startswith(f"not shown: {bad}: {message}") and "\n" not in problem


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00"])
def test_what_is_no_record_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tiny.json"
    path.write_text(text)
    chosen, problems = newest([path, tmp_path / "gone.json"], None)
    assert chosen is None and len(problems) == 2


def test_names_decide_and_not_the_time_of_a_file(tmp_path: Path) -> None:
    paths = [written(tmp_path / f"{name}.json") for name in ("a", "b", "c")]
    other = written(tmp_path / "d.json", model_digest="other")
    os.utime(paths[0], (2e9, 2e9))
    digest_here = synthetic.sensitivity()["model_digest"]
    for digest, expected in ((digest_here, paths[2]), ("other", other), ("none of them", other)):
        chosen, problems = newest([other, *paths], digest)
        assert chosen is not None and chosen.path == expected and problems == []


def test_a_record_of_another_model_is_named_and_left_out(tmp_path: Path) -> None:
    path = written(tmp_path / "tiny.json")
    chosen, (problem,) = newest([path], "another", is_exact=True)
    assert chosen is None
    assert problem.startswith(f"not shown: {path}: measured on another model than the runs; `fast")
    chosen, problems = newest([path], synthetic.sensitivity()["model_digest"], is_exact=True)
    assert chosen is not None and problems == []


def test_cells_of_few_passes_are_faded_and_counts_stand_below(tmp_path: Path) -> None:
    passes = [1200, 9, 10, *[50] * 9]
    record = read_sensitivity(written(tmp_path / "tiny.json", passes=passes))
    faded = {cell["step"]: cell["is_faded"] for cell in record.cells("input_change")}
    assert [step for step, is_faded in faded.items() if is_faded] == ["1"]
    spec = charts.layer_heat_map("changes", record.layers, record.steps)
    assert '"0": "1,200", "1": "9"' in spec["encoding"]["x"]["axis"]["labelExpr"]


@pytest.mark.parametrize(("steps", "last"), [(12, "11+"), (10, "9")])
def test_only_the_last_of_all_columns_stands_for_later_steps(
    tmp_path: Path, steps: int, last: str
) -> None:
    grids = ("input_change", "delta_change", "token_changed")
    full = synthetic.sensitivity()
    cut: dict[str, Any] = {name: [row[:steps] for row in full[name]] for name in grids}
    path = written(tmp_path / "a.json", steps=steps, passes=full["passes"][:steps], **cut)
    assert list(read_sensitivity(path).steps)[-1] == last
