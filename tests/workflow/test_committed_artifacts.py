"""The results that are committed: complete, current, consistent, and found again by a new run.

They are read from git, because a person's own runs replace the files in artifacts/.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from fastdllm.evaluation.summary import Summary, read_summary, unpack_bits
from fastdllm.workflow.runs import Run, load_project

ROOT = Path(__file__).parents[2]
# On another processor float32 may round another way and turn a near-tie.
MOST_ITEMS_TURNED = 0.01
BEGIN = "<!-- table: begin (scripts/update_readme.py) -->\n"
END = "<!-- table: end -->"


def git(*arguments: str) -> str:
    """What git says; without git, or without what is asked for, the test is skipped."""
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def from_git(path: str) -> str:
    """The committed content of a file."""
    return git("show", f"HEAD:{path}")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    decide = ("workflow_config.yaml", "experiments", "tasks", "models")
    if changed := git("status", "--porcelain", "--untracked-files=no", "--", *decide):
        pytest.skip(f"the committed results are not of these settings; you changed: {changed}")
    monkeypatch.chdir(ROOT)
    return [run for run in load_project().runs if run.experiment == "00_baseline"]


def committed(run: Run) -> Summary:
    return Summary(**json.loads(from_git(run.artifact_path.as_posix())))


def test_all_nine_configs_of_both_tasks_are_current(runs: list[Run]) -> None:
    assert len(runs) == 18
    for run in runs:
        assert committed(run).fingerprint == run.fingerprint, f"{run.artifact_path} is stale"


def test_configs_that_are_one_computation_agree_item_by_item(runs: list[Run]) -> None:
    by_class: dict[tuple[str, object], list[Summary]] = {}
    for run in runs:
        summary = committed(run)
        key = (run.task, summary.decides["decoding.reuse_k"])
        by_class.setdefault(key, []).append(summary)
    for first, *others in by_class.values():
        assert len(others) == 2
        for other in others:
            assert other.items == first.items, f"{first.config} and {other.config} of {first.task}"
            assert other.passes == first.passes


def test_reuse_costs_accuracy_visibly(runs: list[Run]) -> None:
    accuracy = {r.config: committed(r).accuracy for r in runs if r.task == "word_problems"}
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
    assert section.strip() and shown.strip() == section.strip(), "run: scripts/update_readme.py"
