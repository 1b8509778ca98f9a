"""Real Snakemake: one run of each computation is decoded, the others are made from it."""

from __future__ import annotations

import json
import shutil
from contextlib import chdir
from pathlib import Path

import pytest

from fastdllm.cli import main
from tests.support.small_project import (
    NINE,
    REUSE,
    SmallProject,
    add_experiment,
    edit,
    make_project,
)

pytestmark = pytest.mark.slow

LEADER = "results/reuse/words/k2_first/summary.json"
MEMBER = "results/reuse/words/k2_last/summary.json"
# Output reuse with two k and two subsets, on one task: four runs, two computations.
FOUR = """\
tasks: [words]
grid: {reuse_k: [2, 3], layer_subset: [first, last]}
config_name: "k{reuse_k}_{layer_subset}"
"""


@pytest.fixture
def reuse(project: SmallProject) -> SmallProject:
    """The small project with one experiment whose runs share computations."""
    share_computations()
    return project


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> SmallProject:
    """The same after its first call."""
    project = make_project(tmp_path_factory.mktemp("made") / "project")
    with chdir(project.path):
        share_computations()
        assert make(project) == ["k2_first", "k3_first"]
    return project


def share_computations() -> None:
    add_experiment("reuse", FOUR, REUSE)
    edit("workflow_config.yaml", "[demo, reuse]", "[reuse]")


def make(project: SmallProject, *arguments: str) -> list[str]:
    """Run Snakemake; the configs that were decoded."""
    done = project.snakemake(*arguments)
    assert done.returncode == 0, done.stderr
    return [line.split()[1] for line in project.evals()]


def read(path: str | Path) -> dict:
    return json.loads(Path(path).read_text())


def told(project: SmallProject, *arguments: str) -> str:
    """The line of counts of a dry run."""
    text = project.snakemake("-n", *arguments).stderr
    return next(line for line in text.splitlines() if line.startswith("fastdllm:"))


def status(capsys: pytest.CaptureFixture[str]) -> str:
    """What `fastdllm status` prints."""
    assert main(["status"]) == 0
    return capsys.readouterr().out


def test_one_run_of_each_computation_is_to_be_decoded(
    reuse: SmallProject, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = reuse.planned()
    assert [row[2:] for row in rows] == [
        ["k2_first", "missing"],
        ["k2_last", "same as reuse/words/k2_first"],
        ["k3_first", "missing"],
        ["k3_last", "same as reuse/words/k3_first"],
    ]
    assert told(reuse) == "fastdllm: 4 targets, 2 GPU jobs (2 missing), 2 the same as another"
    line = "fastdllm: 2 targets, 1 GPU job (1 missing), 1 the same as another"
    assert told(reuse, "--config", "config=k2_first,k2_last") == line
    assert "to make: 2 GPU jobs, 2 the same as another" in status(capsys)


def test_the_life_of_runs_that_are_one_computation(
    made: SmallProject, capsys: pytest.CaptureFixture[str]
) -> None:
    """One project through its usual changes; each step costs a Snakemake start."""
    leader, member = read(LEADER), read(MEMBER)
    own = {"config", "fingerprint", "decides", "model_args", "same_as", "content_digest"}
    assert {key for key in member if member.get(key) != leader.get(key)} == own
    assert member["decides"]["decoding.layer_subset"] == member["model_args"]["layer_subset"]
    assert member["same_as"] == {
        "experiment": "reuse",
        "task": "words",
        "config": "k2_first",
        "fingerprint": leader["fingerprint"],
    }
    assert Path(MEMBER).with_name("results.json").exists()
    assert read(MEMBER.replace("results", "artifacts", 1)) == member
    assert made.planned() == []
    assert "4 done (2 the same computation as another)" in status(capsys)
    assert "Nothing to be done" in made.snakemake("-n").stdout

    assert [row[2:] for row in made.planned("-R", LEADER)] == [
        ["k2_first", "forced"],
        ["k2_last", "same as reuse/words/k2_first"],
    ]
    assert make(made, "-R", LEADER) == ["k2_first"]
    assert read(MEMBER)["timestamp"] == read(LEADER)["timestamp"] != leader["timestamp"]
    assert made.planned() == []
    assert "4 targets, 2 GPU jobs (2 forced), 2 the same" in told(made, "--forcerun")
    assert "4 targets, 2 GPU jobs (2 forced), 2 the same" in told(made, "-R", "eval")

    assert make(made, LEADER, "-R", LEADER) == ["k2_first"]
    why = "stale: copied from an earlier result of reuse/words/k2_first; same as "
    assert made.planned() == [["reuse", "words", "k2_last", why + "reuse/words/k2_first"]]
    assert make(made) == []

    edit("workflow_config.yaml", "threshold: 0.9", "threshold: 0.8")
    assert "4 targets, 2 GPU jobs (2 stale), 2 the same as another" in told(made)
    edit("workflow_config.yaml", "threshold: 0.8", "threshold: 0.9")
    assert made.planned() == []


def test_a_fresh_clone_of_copies_has_nothing_to_do(made: SmallProject) -> None:
    for leftover in ("results", ".snakemake", "logs"):
        shutil.rmtree(leftover)
        done = made.snakemake("-n")
        assert "Nothing to be done" in done.stdout, f"without {leftover}: {done.stdout}"
    shutil.rmtree("results")
    edit("experiments/reuse/experiment.yaml", "[first, last]", "[first, middle, last, [3, 8]]")
    rows = made.planned()
    assert [row[2:] for row in rows] == [
        [f"k{k}_{name}", f"same as reuse/words/k{k}_first"]
        for k in (2, 3)
        for name in ("middle", "3-8")
    ]
    assert make(made) == [], "made from leaders that were taken back themselves"
    assert read("results/reuse/words/k2_3-8/summary.json")["model_args"]["layer_subset"] == [3, 8]
    assert made.planned() == []
    line = "8 targets, 2 GPU jobs (2 missing), 6 the same as another"
    assert line in told(made, "--config", "restore=false")
    assert make(made, "--config", "restore=false") == ["k2_first", "k3_first"]
    assert make(made, "--config", "restore=false") == []


def test_a_forced_copy_is_decoded_itself(made: SmallProject) -> None:
    assert [row[2:] for row in made.planned("-R", MEMBER)] == [["k2_last", "forced"]]
    assert make(made, "-R", MEMBER) == ["k2_last"]
    assert "same_as" not in read(MEMBER)
    assert made.planned() == []


def test_a_leader_of_another_experiment(project: SmallProject) -> None:
    add_experiment("one", FOUR, REUSE)
    add_experiment("two", FOUR.replace("[first, last]", "[middle]"), REUSE)
    assert [row[2:] for row in project.planned("--config", "experiment=two")] == [
        ["k2_middle", "missing"],
        ["k3_middle", "missing"],
    ]
    assert make(project, "--config", "experiment=one", "config=k2_last") == ["k2_last"]
    for leftover in ("results", ".snakemake"):
        # What is published is enough.
        shutil.rmtree(leftover)
        assert [row[2:] for row in project.planned("--config", "experiment=two")] == [
            ["k2_middle", "same as one/words/k2_last"],
            ["k3_middle", "missing"],
        ]
    assert make(project, "--config", "experiment=two") == ["k3_middle"]
    copy = read("artifacts/two/words/k2_middle/summary.json")
    assert copy["same_as"]["experiment"] == "one"
    assert copy["model_args"]["experiment_name"] == "two"
    assert make(project, "--config", "experiment=one") == []


def test_the_members_of_a_leader_that_failed_are_missing(reuse: SmallProject) -> None:
    Path("fail_k2_first").touch()
    Path("kill_k3_first").touch()
    assert reuse.snakemake().returncode != 0
    assert reuse.evals() == []
    assert not Path(MEMBER).exists()
    assert not Path(MEMBER.replace("k2", "k3")).exists()
    for name in ("fail_k2_first", "kill_k3_first"):
        Path(name).unlink()
    assert make(reuse) == ["k2_first", "k3_first"]
    Path("fail_k2_first").touch()
    before = read(MEMBER)
    assert reuse.snakemake("-R", LEADER).returncode != 0
    assert read(MEMBER) == before, "an old copy stays, as an old result does"


def test_replicates_are_decoded_and_must_agree(
    made: SmallProject, capsys: pytest.CaptureFixture[str]
) -> None:
    edit("experiments/reuse/experiment.yaml", "tasks:", "replicate: true\ntasks:")
    assert [row[2:] for row in made.planned()] == [
        [config, f"stale: copied from reuse/words/{leader}; replicate: true asks for its own"]
        for config, leader in (("k2_last", "k2_first"), ("k3_last", "k3_first"))
    ]
    Path("turn_k2_last").touch()
    assert make(made) == ["k2_last", "k3_last"]
    assert "same_as" not in read("artifacts/reuse/words/k2_last/summary.json")
    assert made.planned() == []
    alarms = [line for line in status(capsys).splitlines() if line.startswith("ALARM")]
    assert len(alarms) == 1
    assert "k2_first" in alarms[0]
    assert "k2_last" in alarms[0]
    edit("experiments/reuse/experiment.yaml", "replicate: true\n", "")
    assert made.planned() == [], "what was decoded stays"


def test_a_selection_of_nine_configs_and_a_target(project: SmallProject) -> None:
    add_experiment("reuse", NINE, REUSE)
    edit("tasks/choices.yaml", "task: choices", "task: choices\noutput_type: multiple_choice")
    line = told(project, "--config", "experiment=reuse")
    assert line == "fastdllm: 18 targets, 4 GPU jobs (4 missing), 14 the same as another"
    rows = project.planned("results/reuse/words/k2_last/summary.json")
    assert [row[2:] for row in rows] == [["k2_last", "missing"]], "the target itself is decoded"
    rows = project.planned("--config", "experiment=demo", "task=choices")
    assert [row[2:] for row in rows] == [
        ["k1_first", "missing"],
        ["k2_first", "same as demo/choices/k1_first"],
    ]
