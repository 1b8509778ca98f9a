"""Two clones that share results/ through a link, and start together."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastdllm.cli import main
from fastdllm.tasks.plan import SCHEMA_VERSION, read_plan, write_plan
from fastdllm.workflow import reconcile as reconciling
from fastdllm.workflow.project.digests import FileDigests
from fastdllm.workflow.project.runs import load_project
from fastdllm.workflow.reconcile import reconcile
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


# Two processes that plan at once, forked from one that has done the imports; the rounds in folders.
AT_ONCE = f"""\
import os
from pathlib import Path

from fastdllm.cli import main
from fastdllm.tasks.lm_eval_setup import lm_eval_environment

with lm_eval_environment(offline=True, private_cache=True):
    import fastdllm.tasks.planning

for number in range({ROUNDS}):
    for _ in range(2):
        if not os.fork():
            os._exit(main(["plan", "--task", "sums"]))
    assert [os.wait()[1] for _ in range(2)] == [0, 0]
    Path("results/_plans/sums").rename(f"round-{{number}}")
"""


@pytest.mark.slow
def test_two_that_plan_at_once_leave_one_whole_plan(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AT_ONCE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = []
    for number in range(ROUNDS):
        folder = project / f"round-{number}"
        assert read_plan(folder, "sums").header.n_items == 10
        found.append({path.name: path.read_text() for path in folder.glob("*.*")})
        assert found[-1].keys() == {"plan.json", "requests.jsonl", "made_from.json"}
    assert found[1:] == found[:-1]


@pytest.mark.usefixtures("project")
def test_a_plan_that_others_may_be_reading_is_not_written_anew() -> None:
    folder = Path("results/_plans/sums")
    assert main(["plan", "--task", "sums"]) == 0
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


@pytest.mark.parametrize("other", ["removed it", "planned anew"])
def test_a_plan_that_another_clone_deals_with_first_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """Both clones start with an outdated plan; the other one is faster."""
    monkeypatch.chdir(make_project(tmp_path / "project").path)
    project = load_project()
    reconcile(project)
    plan = project.plans[0]
    folder = plan.plan_path.parent
    (folder / "requests.jsonl").write_text("")
    header = {"digest": hashlib.sha256(b"").hexdigest(), "schema_version": SCHEMA_VERSION}
    plan.plan_path.write_text(json.dumps(header))
    plan.made_from_path.write_text("other settings")
    locked = reconciling.run_lock

    def lock_after_the_other(*arguments: Any, **options: Any) -> Any:
        if other == "removed it":
            plan.plan_path.unlink()
        else:
            plan.made_from_path.write_text(plan.spec_path.read_text())
        return locked(*arguments, **options)

    monkeypatch.setattr(reconciling, "run_lock", lock_after_the_other)
    reconcile(project)
    assert plan.plan_path.exists() is (other == "planned anew")
