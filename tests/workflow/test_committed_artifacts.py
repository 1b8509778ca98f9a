"""The results that are committed: complete, current, consistent, and found again by a new run.

They are read from git, because a person's own runs replace the files in artifacts/.
"""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path

import pytest

from fastdllm.records.summary import Summary, read_summary, unpack_bits
from fastdllm.workflow.claim_results import claims_are_current, published_results
from fastdllm.workflow.project.artifacts import SummaryReader
from fastdllm.workflow.project.runs import Run, load_project
from fastdllm.workflow.project.selection import Selection

ROOT = Path(__file__).parents[2]
# On another processor float32 may round another way and turn a near-tie.
MOST_ITEMS_TURNED = 0.01
BEGIN = "<!-- table: begin (scripts/update_answers.py) -->\n"
END = "<!-- table: end -->"


def git(*arguments: str) -> str:
    """What git says; without git, or without what is asked for, the test is skipped."""
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


@cache
def from_git(path: str) -> str:
    """The committed content of a file."""
    return git("show", f"HEAD:{path}")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    decide = ("workflow_config.yaml", "experiments", "tasks", "models")
    if changed := git("status", "--porcelain", "--untracked-files=no", "--", *decide):
        pytest.skip(f"the committed results are not of these settings; you changed: {changed}")
    monkeypatch.chdir(ROOT)
    return list(load_project().runs)


@pytest.fixture
def baseline(runs: list[Run]) -> list[Run]:
    return [run for run in runs if run.experiment == "00_baseline"]


def committed(run: Run) -> Summary:
    return Summary(**json.loads(from_git(run.artifact_path.as_posix())))


def test_the_results_of_all_experiments_are_current(runs: list[Run], baseline: list[Run]) -> None:
    assert len(baseline) == 18
    for run in runs:
        assert committed(run).fingerprint == run.fingerprint, f"{run.artifact_path} is stale"


def test_runs_that_are_one_computation_agree_item_by_item(runs: list[Run]) -> None:
    by_class: dict[str, list[Summary]] = {}
    for run in runs:
        by_class.setdefault(run.computation, []).append(committed(run))
    for first, *others in by_class.values():
        for other in others:
            assert other.items == first.items, f"{first.config} and {other.config} of {first.task}"
            assert passes_of(other) == passes_of(first)


def passes_of(summary: Summary) -> tuple[int, ...] | None:
    """Passes and layer-forwards; a sub-block pass over the whole block is a full pass."""
    passes = summary.passes
    if passes is None:
        return None
    denoising = passes.full_block + passes.sub_block
    return denoising, passes.commit, passes.reused, passes.layer_forwards_computed


def test_copies_name_a_result_that_was_decoded(runs: list[Run]) -> None:
    by_name = {(run.experiment, run.task, run.config): committed(run) for run in runs}
    copies = [summary for summary in by_name.values() if summary.same_as is not None]
    for copy in copies:
        assert copy.same_as is not None
        origin = by_name[copy.same_as.experiment, copy.same_as.task, copy.same_as.config]
        assert origin.same_as is None
        assert (origin.fingerprint, origin.computation) == (
            copy.same_as.fingerprint,
            copy.computation,
        )
        assert (origin.timestamp, origin.throughput) == (copy.timestamp, copy.throughput)


def test_reuse_costs_accuracy_visibly(baseline: list[Run]) -> None:
    accuracy = {r.config: committed(r).accuracy for r in baseline if r.task == "word_problems"}
    assert accuracy["k1_first"] >= 0.95
    assert accuracy["k1_first"] - accuracy["k2_first"] > 0.1
    assert accuracy["k2_first"] - accuracy["k3_first"] > 0.05


def test_committed_figures_come_from_clean_trees(runs: list[Run]) -> None:
    for run in runs:
        git = committed(run).git
        assert git is not None and not git.dirty, run.artifact_path


def test_runs_made_here_find_the_committed_answers(runs: list[Run]) -> None:
    made = [run for run in runs if run.summary_path.exists()]
    if not made:
        pytest.skip("no run of the baseline has been made here; `make run` makes them")
    for run in made:
        here, there = read_summary(run.summary_path), committed(run)
        assert here.items is not None and there.items is not None
        pairs = list(zip(unpack_bits(here.items), unpack_bits(there.items), strict=True))
        turned = sum(ours != theirs for ours, theirs in pairs)
        assert turned <= MOST_ITEMS_TURNED * len(pairs), f"{run.folder}: {turned} items differ"


def test_the_readme_shows_the_committed_table() -> None:
    shown = from_git("README.md").partition(BEGIN)[2].partition(END)[0]
    table = from_git("artifacts/00_baseline/table.md")
    section = table.partition("## word_problems\n\n")[2].partition("\n## ")[0]
    assert section.strip() and shown.strip() == section.strip(), "run: scripts/update_answers.py"


@pytest.mark.usefixtures("runs")
def test_claims_are_current_whatever_is_selected() -> None:
    project = load_project(Selection(experiments=("00_baseline",)))
    assert project.claims and {run.experiment for run in project.runs} == {"00_baseline"}
    assert claims_are_current(project, published_results(project, SummaryReader()))
