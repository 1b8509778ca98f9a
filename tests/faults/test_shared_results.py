"""Two clones that share results/ through a link, and start together."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fastdllm.cli import main
from fastdllm.tasks.plan import read_plan, write_plan
from fastdllm.workflow.project.digests import FileDigests
from tests.support.small_project import make_project

ROUNDS = 2
PLANS = [f"results/_plans/{task}/plan.json" for task in ("words", "choices")]
# What `fastdllm` is in the second clone: its first job fails while the first clone makes all plans;
# the second one, which Snakemake has decided on before, notes what it finds, and has nothing to do.
SECOND_CLONE = f"""\
import subprocess, sys
from pathlib import Path

if not Path("begun").exists():
    Path("begun").touch()
    call = [sys.executable, "-m", "snakemake", "--cores", "1", *{PLANS}]
    subprocess.run(call, cwd="../a", check=True)
    sys.exit(1)
Path("found").write_text(str([Path(plan).exists() for plan in {PLANS}]))
"""


@pytest.mark.slow
def test_a_snakemake_leaves_the_plans_of_another_clone_in_place(tmp_path: Path) -> None:
    clones = [make_project(tmp_path / name) for name in ("a", "b")]
    (tmp_path / "results").mkdir()
    for clone in clones:
        (clone.path / "results").symlink_to(tmp_path / "results")
    second = clones[1]
    (second.path / "fastdllm/__main__.py").write_text(SECOND_CLONE)
    done = second.snakemake("--cores", "1", *PLANS)
    assert done.returncode == 1 and "1 of 2 steps" in done.stderr, done.stderr
    assert (second.path / "found").read_text() == "[True, True]"
    assert all((tmp_path / plan).exists() for plan in PLANS)


def plan_in_another_process() -> int:
    """Start `fastdllm plan` in a fork of this process; its id."""
    if (child := os.fork()) == 0:
        code = 70
        try:
            code = main(["plan", "--task", "sums"])
        finally:
            os._exit(code)
    return child


@pytest.mark.usefixtures("project")
def test_two_that_plan_at_once_leave_one_whole_plan() -> None:
    folder = Path("results/_plans/sums")
    texts = []
    for _ in range(ROUNDS):
        shutil.rmtree("results", ignore_errors=True)
        children = [plan_in_another_process() for _ in range(2)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert codes == [0, 0]
        assert read_plan(folder, "sums").header.n_items == 10
        names = ("plan.json", "requests.jsonl", "made_from.json")
        assert sorted(path.name for path in folder.iterdir()) == sorted([*names, "lock"])
        texts.append([(folder / name).read_text() for name in names])
    assert texts[1:] == texts[:-1]
    # A plan that others may be reading is not written anew.
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.json*")}
    assert main(["plan", "--task", "sums"]) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.json*")} == before


def test_a_kill_leaves_no_plan_that_seems_to_be_of_another_spec(
    make_plan_on_disk: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, folder = make_plan_on_disk(), Path("results/_plans/sums")
    new = json.dumps({"chunk_size": 4})
    for fails_at in range(3):
        write_plan(folder, plan, made_from="old")
        writes = iter(range(3))

        def write(path: Path, text: str, writes=writes, fails_at=fails_at) -> None:
            if next(writes) == fails_at:
                raise KeyboardInterrupt
            path.write_text(text)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("fastdllm.tasks.plan.write_if_changed", write)
            write_plan(folder, plan, made_from=new)
        assert not (folder / "plan.json").exists()


def test_clones_remember_the_digests_of_their_own_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for name in ("a", "b", "a", "b"):
        (tmp_path / name / "tasks").mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(tmp_path / name)
        task = Path("tasks/words.yaml")
        if not task.exists():
            task.write_text(f"task: {name}")
        digests = FileDigests.load(tmp_path / "digests.json")
        found.append(digests.of(task))
        assert digests.is_changed is (len(found) <= 2), "each is read once"
        digests.save()
    assert found[:2] == found[2:] and len(set(found)) == 2
