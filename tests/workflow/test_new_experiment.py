"""`fastdllm new-experiment`: the template copied as it is, or one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fastdllm.cli import main
from fastdllm.workflow.project.runs import load_project
from tests.support.small_project import ROOT, SmallProject, edit

TEMPLATE = ROOT / "experiments" / "_template"


@pytest.fixture
def with_template(project: SmallProject) -> None:
    shutil.copytree(TEMPLATE, project.path / "experiments/_template")


@pytest.mark.usefixtures("with_template")
def test_a_new_experiment_is_the_template_and_runs_once_it_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("experiments/_template/__pycache__").mkdir()
    assert main(["new-experiment", "my_idea"]) == 0
    text = capsys.readouterr().out
    assert "1. edit experiments/my_idea/experiment.yaml" in text
    assert "2. name it in workflow_config.yaml" in text
    files = {p.name: p.read_bytes() for p in Path("experiments/my_idea").iterdir()}
    assert files == {p.name: p.read_bytes() for p in TEMPLATE.iterdir() if p.is_file()}
    assert sorted(p.name for p in Path("experiments").iterdir()) == [
        "_template",
        "demo",
        "my_idea",
    ]
    edit("workflow_config.yaml", "[demo]", "[demo, my_idea]")
    assert {run.experiment for run in load_project().runs} == {"demo", "my_idea"}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("demo", "experiments/demo: exists already"),
        ("../demo", "cannot be a name"),
        ("_mine", "cannot be a name"),
        ("", "cannot be a name"),
        ("x" * 300, "it has 300 letters, and at most 100 are allowed"),
    ],
)
@pytest.mark.usefixtures("with_template")
def test_a_name_that_cannot_be_is_one_line(
    capsys: pytest.CaptureFixture[str], name: str, says: str
) -> None:
    before = sorted(Path().rglob("*"))
    assert main(["new-experiment", name]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert says in lines[0]
    assert sorted(Path().rglob("*")) == before


@pytest.mark.usefixtures("project")
def test_without_a_template_it_says_where_to_type_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new-experiment", "my_idea"]) == 2
    assert "experiments/_template: no such folder" in capsys.readouterr().err


@pytest.mark.usefixtures("with_template")
def test_a_copy_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", fail)
    assert main(["new-experiment", "my_idea"]) == 2
    assert sorted(p.name for p in Path("experiments").iterdir()) == ["_template", "demo"]
