"""The sensitivity record on the page: what is read of it, and what a damaged one does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fastdllm.report import plot_specs as charts
from fastdllm.report.sensitivity_map import newest, read_sensitivity
from fastdllm.workflow.project.config_files import ModelChoice
from tests.support import made_up_runs as synthetic

TINY = ModelChoice(path="models/tiny")
HERE = {"model": "local", "model_digest": synthetic.sensitivity()["model_digest"]}


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
    chosen, problems = newest([bad, good], TINY, HERE, ())
    assert chosen is not None and chosen.path == good
    (problem,) = problems
    assert problem.startswith(f"not shown: {bad}: {message}") and "\n" not in problem


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00"])
def test_what_is_no_record_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tiny.json"
    path.write_text(text)
    chosen, problems = newest([path, tmp_path / "gone.json"], TINY, HERE, ())
    assert chosen is None and len(problems) == 2


def test_names_decide_and_not_the_time_of_a_file(tmp_path: Path) -> None:
    paths = [written(tmp_path / f"{name}.json") for name in ("a", "b", "c")]
    other = written(tmp_path / "d.json", model_digest="other")
    os.utime(paths[0], (2e9, 2e9))
    for digest, expected in ((HERE["model_digest"], paths[2]), ("other", other)):
        chosen, problems = newest([other, *paths], TINY, {**HERE, "model_digest": digest}, ())
        assert chosen is not None and chosen.path == expected and problems == []


@pytest.mark.parametrize(
    ("revision", "name", "digest", "is_shown"),
    [
        (None, "lab/Fast_7B", "a1" * 32, True),  # measured without --revision
        (None, "lab/Fast_7B", "main", True),
        (None, "lab/Fast_7B", "v2", False),
        ("v2", "lab/Fast_7B", "v2", True),
        ("v2", "lab/Fast_7B", "a1" * 32, False),
        (None, "lab/other", "main", False),
        (None, "models/tiny", HERE["model_digest"], False),
    ],
)
def test_only_a_record_of_the_hub_model_of_the_runs_is_shown(
    tmp_path: Path, revision: str | None, name: str, digest: str, *, is_shown: bool
) -> None:
    # The embedded model's record is in git, and comes last by name.
    paths = [
        written(tmp_path / "Fast_7B.json", model=name, model_digest=digest),
        written(tmp_path / "tiny.json"),
    ]
    decides = {"model": "lab/Fast_7B", "model_digest": revision or "main"}
    model = ModelChoice(path="lab/Fast_7B", revision=revision)
    chosen, problems = newest(paths, model, decides, ())
    assert (chosen and chosen.path) == (paths[0] if is_shown else None)
    assert len(problems) == (0 if is_shown else 2)
    ending = " --revision v2" if revision else ""
    for path, problem in zip(paths, problems, strict=False):
        assert problem.startswith(f"not shown: {path}: measured on ")
        assert f"`fastdllm sensitivity --publish --model lab/Fast_7B{ending}`" in problem


def test_the_commit_of_a_hub_model_decides_where_it_is_known(tmp_path: Path) -> None:
    hub = {"model": "lab/Fast_7B", "model_digest": "main"}
    paths = [
        written(tmp_path / f"{letter}.json", **hub, model_commit=letter * 40) for letter in "ab"
    ]
    model = ModelChoice(path="lab/Fast_7B")
    for commits, shown in (((), "b"), (("a" * 40,), "a"), (("c" * 40,), None)):
        chosen, problems = newest(paths, model, hub, commits)
        assert (chosen and chosen.path.stem) == shown
        assert len(problems) == (2 if shown is None else 0)


def test_a_record_of_another_folder_is_named_and_left_out(tmp_path: Path) -> None:
    path = written(tmp_path / "tiny.json")
    chosen, (problem,) = newest([path], TINY, {**HERE, "model_digest": "another"}, ())
    assert chosen is None
    assert problem == (
        f"not shown: {path}: measured on models/tiny (160eb05e), another model than that of the "
        "runs; `fastdllm sensitivity --publish --model models/tiny` measures this one"
    )


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
