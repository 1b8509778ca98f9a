"""What is recorded of the surroundings of a run."""

from __future__ import annotations

import subprocess
from pathlib import Path

from fastdllm.machine.process import git_state


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_a_tree_is_dirty_when_something_that_decides_results_is_not_committed(tmp_path: Path):
    assert git_state(tmp_path) is None, "no repository"
    git(tmp_path, "init", "--quiet")
    (tmp_path / "experiments").mkdir()
    policy = tmp_path / "experiments" / "policy.py"
    policy.write_text("a = 1")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-m", "first")
    state = git_state(tmp_path)
    assert state is not None and len(state["commit"]) == 40
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "summary.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("mine")
    assert git_state(tmp_path)["dirty"] is False, "results and notes do not count"
    (tmp_path / "experiments" / "new.py").write_text("b = 2")
    assert git_state(tmp_path)["dirty"] is True
    (tmp_path / "experiments" / "new.py").unlink()
    policy.write_text("a = 2")
    assert git_state(tmp_path)["dirty"] is True
