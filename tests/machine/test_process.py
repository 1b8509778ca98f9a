"""The process: what is recorded of it."""

from __future__ import annotations

import resource
import subprocess
from pathlib import Path

import pytest
import torch

from fastdllm.common.errors import UserError
from fastdllm.common.paths import cache_home, expanded
from fastdllm.machine.process import git_state, keep_freed_memory, user_name
from tests.support.fakes import without_name


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


def test_a_file_that_decides_counts_wherever_it_is(tmp_path: Path, monkeypatch) -> None:
    project, outside = tmp_path / "project", tmp_path / "outside.py"
    (project / "lib[1]").mkdir(parents=True)
    git(project, "init", "--quiet")
    (project / ".gitignore").write_text("*.bin")
    git(project, "add", "-A")
    git(project, "commit", "-m", "first")
    monkeypatch.chdir(project)
    files = [Path("lib[1]/k.py"), Path("data.bin"), outside]
    for file in (*files, Path("lib[1]/notes.py")):
        file.write_text("a = 1")
    assert git_state()["dirty"] is False, "nothing says that it decides"
    assert git_state(files=[Path("data.bin"), outside])["dirty"] is False, "git is not to know it"
    assert git_state(files=files)["dirty"] is True
    git(project, "add", "lib[[]1]/k.py")
    git(project, "commit", "-m", "second")
    assert git_state(files=files)["dirty"] is False


def test_neither_another_repository_nor_a_users_settings_hide_what_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mine", "other"):
        (tmp_path / name / "experiments").mkdir(parents=True)
        git(tmp_path / name, "init", "--quiet")
        git(tmp_path / name, "commit", "--allow-empty", "-m", name)
    mine = git_state(tmp_path / "mine")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other/.git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "other"))
    assert git_state(tmp_path / "mine") == mine is not None
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.delenv("GIT_WORK_TREE")
    git(tmp_path / "mine", "config", "status.showUntrackedFiles", "no")
    (tmp_path / "mine/experiments/new.py").write_text("b = 2")
    assert git_state(tmp_path / "mine") == {**mine, "dirty": True}


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
        with pytest.raises(UserError, match=r"home folder is not known; .* export HOME="):
            path()


def test_freed_tensors_leave_their_pages_to_the_next_ones():
    def new_pages() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [torch.ones(2**20) for _ in range(12)]
        del blocks
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    if not keep_freed_memory():
        pytest.skip("not glibc")
    # The least of a few: other memory may come to lie between the blocks.
    assert min(new_pages() for _ in range(5)) < 1024, "of the 12288 that 48 MiB have"
