"""The process: the threads it may use, and what is recorded of it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import torch

from fastdllm.common.errors import UserError
from fastdllm.common.paths import cache_home, expanded
from fastdllm.machine.process import (
    allowed_threads,
    chosen_threads,
    git_state,
    use_allowed_threads,
    user_name,
)
from tests.support.fakes import without_name


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name in ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def quota(root: Path, text: str) -> Path:
    for name, content in (("proc/self/cgroup", "0::/job"), ("sys/fs/cgroup/job/cpu.max", text)):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(content)
    return root


@pytest.mark.parametrize(
    ("text", "allowed"),
    [("max 100000", 8), ("350000 100000", 3), ("50000 100000", 1), ("9900000 100000", 8)],
)
def test_a_quota_is_rounded_down_but_never_to_none(tmp_path: Path, text: str, allowed: int) -> None:
    assert allowed_threads(quota(tmp_path, text)) == allowed


@pytest.mark.parametrize(("written", "allowed"), [("4", 4), ("64", 8), ("", 8), ("four", 8)])
def test_slurm_can_only_lower_the_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, allowed: int
) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", written)
    assert allowed_threads(tmp_path) == allowed


@pytest.mark.parametrize(
    ("requested", "variable", "threads"),
    [
        (None, None, 8),
        (None, "3", 3),
        (None, "3,2", 3),
        (None, "", 8),
        (None, "16", 8),
        (5, "3", 5),
        (5, "none", 5),
        (16, "3", 8),
    ],
)
def test_the_users_word_wins_up_to_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, requested: int | None, variable: str | None, threads: int
) -> None:
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert chosen_threads(requested, allowed=8) == threads


@pytest.mark.parametrize("variable", ["0", "-2", "many"])
def test_a_variable_that_is_no_number_of_threads_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    with pytest.raises(UserError, match=re.escape(f"OMP_NUM_THREADS={variable!r} is not allowed")):
        chosen_threads(allowed=8)


def test_torch_gets_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    torch.set_num_threads(2)
    try:
        assert use_allowed_threads(7) == 1
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(1)


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


def test_a_commit_that_git_does_not_tell_is_unknown_for_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init", "--quiet")
    assert "HEAD" in git_state(tmp_path)["unknown"], "nothing is committed"
    git(tmp_path, "commit", "--allow-empty", "-m", "first")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert git_state(tmp_path)["unknown"].startswith("detected dubious ownership in repository at")
    monkeypatch.setenv("PATH", "")
    assert git_state(tmp_path) == {"unknown": "git cannot be started: No such file or directory"}


def test_a_user_without_name_and_home_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    without_name(monkeypatch)
    assert user_name() is None
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for path in (cache_home, lambda: expanded("~/m")):
        with pytest.raises(UserError, match=r"there is no home folder, as HOME is not set"):
            path()
