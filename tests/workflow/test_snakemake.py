"""Real Snakemake on a small project: what runs, and what does not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.small_project import SmallProject, edit, make_project

pytestmark = pytest.mark.slow

ALL = ["choices k1_first", "choices k2_first", "words k1_first", "words k2_first"]


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> SmallProject:
    """A project after its first call."""
    project = make_project(tmp_path_factory.mktemp("made") / "project")
    done = project.snakemake()
    assert done.returncode == 0, done.stderr
    return project


def test_the_life_of_a_project(made: SmallProject) -> None:
    """One project through its usual changes; each step costs a Snakemake start."""
    project = made
    assert project.evals() == ALL, "everything runs once"
    assert Path("artifacts/demo/words/k1_first/summary.json").exists()
    assert project.planned() == [], "a second call has nothing to do"
    assert "Nothing to be done" in project.snakemake("-n").stdout

    edit("experiments/demo/generation_functions.py", '"""Docstring."""', "# a comment\n")
    edit("tasks/words.yaml", "task: words", "# a comment\ntask:   words")
    assert project.planned() == [], "comments and layout change nothing"

    Path("results/demo/words/k2_first/summary.json").unlink()
    shutil.rmtree("artifacts/demo/words/k2_first")
    assert project.planned() == [["demo", "words", "k2_first", "missing"]]
    assert project.snakemake().returncode == 0
    assert project.evals() == ["words k2_first"], "one summary missing: one eval"

    edit("experiments/demo/experiment.yaml", "reuse_k: [1, 2]", "reuse_k: [1, 2]\n  threshold: [1]")
    rows = project.planned("--config", "task=words")
    assert [row[1:] for row in rows] == [
        ["words", "k1_first", "stale: decoding.threshold 0.9 -> 1.0"],
        ["words", "k2_first", "stale: decoding.threshold 0.9 -> 1.0"],
    ]
    edit("experiments/demo/experiment.yaml", "\n  threshold: [1]", "")
    assert project.planned() == [], "a change that is taken back leaves nothing to do"

    edit("workflow_config.yaml", "chunk_size: 2", "chunk_size: 3")
    assert len(project.planned()) == 2
    edit("workflow_config.yaml", "chunk_size: 3", "chunk_size: 2")
    assert project.planned() == [], "the same for a change that the plan depends on"

    target = "results/demo/words/k1_first/summary.json"
    assert [row[1:] for row in project.planned("-R", target)] == [["words", "k1_first", "forced"]]
    assert len(project.planned("-R", "eval")) == 4
    assert len(project.planned("--forcerun")) == 4, "without a name it means every run"
    assert project.planned() == [], "and asking changes nothing"
    assert project.snakemake("--forcerun", target).returncode == 0
    assert project.evals() == ["words k1_first"], "--forcerun on one run runs that one"


def test_a_fresh_clone_with_artifacts_has_nothing_to_do(made: SmallProject) -> None:
    project = made
    for leftover in ("results", ".snakemake", "logs"):
        # Old logs beside new results are no reason to run either.
        shutil.rmtree(leftover)
        done = project.snakemake("-n")
        assert "Nothing to be done" in done.stdout, f"without {leftover}: {done.stdout}"
    shutil.rmtree("results")
    rows = project.planned("--config", "restore=false", "task=words")
    assert [row[1:] for row in rows] == [
        ["words", f"{config}_first", "missing: published, but not decoded here"]
        for config in ("k1", "k2")
    ]
    edit("experiments/demo/experiment.yaml", "[1, 2]", "[1, 2, 3]")
    rows = project.planned()
    assert [row[1:3] for row in rows] == [["words", "k3_first"], ["choices", "k3_first"]], (
        "the missing plan that a new config needs makes no old run again"
    )
    edit("experiments/demo/experiment.yaml", "[1, 2, 3]", "[1, 2]")
    edit("workflow_config.yaml", "chunk_size: 2", "chunk_size: 3")
    rows = project.planned()
    assert [row[1:3] for row in rows] == [["words", "k1_first"], ["words", "k2_first"]]
    assert all("chunk_size 2 -> 3" in row[3] for row in rows)


def test_limited_runs_are_kept_apart_and_not_published(project: SmallProject) -> None:
    target = "results/demo/words_limit_3/k1_first/summary.json"
    Path("odd_words").touch()
    done = project.snakemake(target, "--config", "limit=3")
    assert done.returncode == 0
    lines = ("fastdllm: odd items of words\n", "planned\n")
    assert [line in done.stderr for line in lines] == [True, False], "what a plan names is shown"
    assert all(line in Path("logs/plan/words_limit_3.log").read_text() for line in lines)
    assert Path(target).exists()
    assert project.evals() == ["words k1_first"]
    assert not Path("artifacts").exists()
    rows = project.planned("--config", "limit=3", "task=words,choices", "config=k1_first")
    assert [row[1:3] for row in rows] == [["choices_limit_3", "k1_first"]]


def test_a_failed_run_stops_no_other_and_is_made_up_for(project: SmallProject) -> None:
    Path("fail_k2_first").touch()
    done = project.snakemake()
    assert done.returncode != 0
    assert "fastdllm status" in done.stderr
    assert project.evals() == ["choices k1_first", "words k1_first"]
    Path("fail_k2_first").unlink()
    assert project.snakemake().returncode == 0
    assert project.evals() == ["choices k2_first", "words k2_first"]


def test_what_fails_here_is_not_tried_again(project: SmallProject) -> None:
    """A plan that fails, with the option that the profiles of clusters set."""
    main = Path("fastdllm/__main__.py")
    main.write_text(
        main.read_text().replace('if command == "plan":', 'if command == "plan": 1 / 0')
    )
    done = project.snakemake("results/_plans/words/plan.json", "--retries", "1")
    assert done.returncode == 1
    assert done.stderr.count("Error in rule plan") == 1
    assert "Trying to restart" not in done.stderr


def test_what_a_failed_run_would_replace_stays(made: SmallProject) -> None:
    target = Path("results/demo/words/k2_first/summary.json")
    earlier = target.read_text()
    Path("fail_k2_first").touch()
    done = made.snakemake("-R", str(target), "--", str(target))
    assert done.returncode == 1 and target.read_text() == earlier
    target.unlink()
    done = made.snakemake(str(target), "--config", "restore=false")
    assert done.returncode == 1 and not target.exists()
    assert "backup" not in done.stderr and "incomplete" not in done.stderr
    assert "CalledProcessError" in done.stderr, "and the failure itself is told"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--config", "task=wrods"), "unknown task 'wrods'; did you mean 'words'?"),
        (("--config", "limt=3"), "unknown key 'limt'; did you mean 'limit'?"),
        (("--config", "limit=0"), "limit: 0 is not allowed"),
        (("--config", "restore=no"), "restore: 'no' is not allowed"),
        (("results/demo/words/k1_frist/summary.json",), "k1_first/summary.json"),
        (("agregate",), "did you mean aggregate"),
        (("repotr",), "did you mean report"),
        (("report", "--config", "limit=2"), "fastdllm table --limit 2"),
        (("eval",), "this rule makes one file"),
        (("/tmp/summary.json",), "name files from the project's folder"),
        (("results/demo/words_limit_3/k1_first/summary.json",), "--config limit=3"),
    ],
)
def test_a_mistake_is_one_line(
    project: SmallProject, arguments: tuple[str, ...], says: str
) -> None:
    done = project.snakemake("-n", *arguments)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("Using ")]
    assert done.returncode == 2
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("fastdllm: ")
    assert says in lines[0]


def test_the_report_is_made_of_all_runs_once_they_are_published(project: SmallProject) -> None:
    assert len(project.planned("report")) == 4
    assert project.snakemake("report").returncode == 0
    assert project.evals() == ALL
    for name in ("report.html", "comparisons.csv", "plots/demo.svg"):
        assert Path("artifacts", name).exists()
    assert "Nothing to be done" in project.snakemake("-n", "report").stdout
    done = project.snakemake("report", "--report", "packed.html")
    assert done.returncode == 0, done.stderr
    assert "demo.svg" in Path("packed.html").read_text()


def test_the_cluster_profile_plans(project: SmallProject) -> None:
    assert len(project.planned("--profile", "profiles/pace")) == 4


def test_training_needs_no_model(project: SmallProject) -> None:
    shutil.rmtree("models")
    done = project.snakemake("-n", "-p", "train")
    assert done.returncode == 0, done.stderr
    assert "training.train --out models/tiny" in done.stdout


@pytest.mark.parametrize("profile", [(), ("--profile", "profiles/pace")])
def test_a_dry_run_prints_its_table_and_more_only_if_asked(
    project: SmallProject, profile: tuple[str, ...]
) -> None:
    done = project.snakemake("-n", *profile)
    rows = ["aggregate 1", "all 1", "eval 4", "plan 2", "total 8"]
    heading = ["Job stats:", "job count", "--------- -------"]
    assert sorted(words(done.stdout)) == sorted([*heading, *rows])
    assert [line[:9] for line in done.stderr.splitlines() if line[:6] != "Using "][-6:] == [
        "fastdllm:",
        "  experim",
        *["  demo   "] * 4,
    ]
    for option in ("-p", "--verbose"):
        more = project.snakemake("-n", option, *profile).stdout
        assert "fastdllm plan --task words" in more and "dry-run (flag -n)" in more


def test_a_fresh_clone_is_not_told_of_metadata(made: SmallProject) -> None:
    for leftover in ("results", ".snakemake"):
        shutil.rmtree(leftover)
    said = "Nothing to be done (all requested files are present and up to date)."
    assert words(made.snakemake("-n").stdout) == [said]
    assert "missing provenance" in made.snakemake("-n", "--verbose").stdout


def words(text: str) -> list[str]:
    """The lines with something in them, single-spaced."""
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]
