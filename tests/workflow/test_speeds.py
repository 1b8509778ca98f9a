"""Speeds as targets of Snakemake: missing, stale, published, restored, forced."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fastdllm.common.errors import UserError
from fastdllm.workflow.project.runs import load_project
from fastdllm.workflow.project.speeds import speed_measurements
from fastdllm.workflow.speed_states import SpeedState, speed_status
from tests.support.small_project import REUSE, SmallProject, edit, make_project

SPEED = """\
speed:
  baseline: k1_first
  configs: [k2_first]
  batch_sizes: [1, 4]
  sittings: 3
"""
TARGET = "results/demo/words/speed.json"
ARTIFACT = Path("artifacts/demo/words/speed.json")


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> SmallProject:
    """A project whose speeds were measured."""
    project = make_project(tmp_path_factory.mktemp("made") / "project")
    add_speed(project.path)
    done = project.snakemake("speed")
    assert done.returncode == 0, done.stderr
    return project


def add_speed(folder: Path) -> None:
    (folder / "experiments/demo/generation_functions.py").write_text(REUSE)
    with (folder / "experiments/demo/experiment.yaml").open("a") as stream:
        stream.write(f"tasks: [words]\n{SPEED}")


def states() -> list[SpeedState]:
    return [speed_status(m).state for m in speed_measurements(load_project())]


@pytest.mark.slow
def test_the_life_of_a_speed(made: SmallProject) -> None:
    project = made
    assert project.evals() == ["sitting 1", "sitting 2", "sitting 3"], "no run is needed for it"
    assert json.loads(ARTIFACT.read_text())["estimates"][0]["ratio"] == pytest.approx(
        0.81, abs=0.01
    )
    assert "Nothing to be done" in project.snakemake("-n", "speed").stdout
    assert project.jobs("speed") == {}
    assert "sitting" not in project.jobs(), "without its name no speed is measured"

    shutil.rmtree("results")
    assert project.jobs("speed") == {}, "a fresh clone has the published one"
    assert Path(TARGET).exists()

    assert project.jobs("speed", "-R", "speed") == {"sitting": 3, "ratios": 1, "speed": 1}
    assert project.jobs("speed") == {}, "asking changes nothing"

    edit("workflow_config.yaml", "threshold: 0.9", "threshold: 0.8")
    assert states() == [SpeedState.STALE]
    assert project.jobs("speed") == {"sitting": 3, "ratios": 1, "speed": 1}
    edit("workflow_config.yaml", "threshold: 0.8", "threshold: 0.9")
    assert project.jobs("speed") == {}, "a change that is taken back leaves nothing to do"

    edit("workflow_config.yaml", "threshold: 0.9", "threshold: 0.8")
    Path("fail_sitting_2").touch()
    assert project.snakemake("speed").returncode != 0
    assert project.evals() == ["sitting 1"]
    Path("fail_sitting_2").unlink()
    done = project.snakemake("-n", "speed")
    assert "fastdllm: 1 speed, 2 sittings to measure" in done.stderr
    assert "demo/words: stale, 1 of 3 sittings" in done.stderr
    assert project.snakemake("speed").returncode == 0
    assert project.evals() == ["sitting 2", "sitting 3"], "what is measured is kept"
    kept = sorted(path.name for path in Path("results/demo/words").glob("speed*.json"))
    assert len(kept) == 2, "and the record of the settings before as well"

    assert project.snakemake("speed", "-R", "speed").returncode == 0
    assert project.evals() == ["sitting 1", "sitting 2", "sitting 3"]


@pytest.fixture
def speeds(project: SmallProject) -> SmallProject:
    add_speed(project.path)
    return project


def test_a_gpu_that_is_asked_for_must_be_the_one_measured(speeds: SmallProject) -> None:
    del speeds
    project = load_project()
    (anywhere,) = speed_measurements(project)
    (on_a100,) = speed_measurements(project, gpu="A100")
    on_a100.record_path.parent.mkdir(parents=True)
    on_a100.record_path.write_text(
        json.dumps({"fingerprint": on_a100.fingerprint, "decides": on_a100.decides})
    )
    assert on_a100.is_of(on_a100.record_path)
    assert anywhere.is_of(on_a100.record_path), "a laptop shows what a cluster measured"
    (on_h100,) = speed_measurements(project, gpu="H100")
    assert not on_h100.is_of(on_a100.record_path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "configs: [k2_first]",
            "configs: [k3_first]",
            "speed: unknown config 'k3_first'; did you mean 'k2_first'?",
        ),
        ("configs: [k2_first]", "configs: [k1_first]", "'k1_first' is named twice"),
        ("configs: [k2_first]", "configs: [k1_middle]", "the same computation"),
        ("sittings: 3", "sittings: 2", "should be greater than or equal to 3"),
        ("batch_sizes: [1, 4]", "batch_sizes: [0]", "should be greater than or equal to 1"),
        ("batch_sizes: [1, 4]", "batch_size: [4]", "batch_sizes"),
        ("baseline: k1_first", "baseline: other/k1_first", "other/k1_first"),
    ],
)
def test_mistakes_are_named(speeds: SmallProject, old: str, new: str, words: str) -> None:
    del speeds
    edit("experiments/demo/experiment.yaml", old, new)
    edit("experiments/demo/experiment.yaml", "[first]", "[first, middle]")
    with pytest.raises(UserError) as refused:
        speed_measurements(load_project(), is_asked=True)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    if "should be" not in words and "batch_sizes" not in words and "twice" not in words:
        assert speed_measurements(load_project()) == [], "nothing else stops for it"


@pytest.mark.slow
def test_the_target_is_refused_where_nothing_can_be_measured(project: SmallProject) -> None:
    done = project.snakemake("-n", "speed")
    assert done.returncode == 2
    assert "no selected experiment has `speed:`" in done.stderr
