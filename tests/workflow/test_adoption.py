"""What a call makes of runs that have a SLURM job already."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastdllm.cluster.jobs import comment_of
from fastdllm.cluster.slurm import Job
from fastdllm.entry import left_out_of
from fastdllm.workflow.project.runs import Run, load_project
from fastdllm.workflow.project.selection import Selection
from fastdllm.workflow.reconcile import reconcile
from fastdllm.workflow.splitting import JobSplit, split_into_jobs
from fastdllm.workflow.status.queue import names_of, queue_of
from fastdllm.workflow.status.run_status import RunStatus, State
from tests.support.fakes import fake_summary
from tests.support.small_project import REUSE, SmallProject, add_experiment, edit, make_project

ONE = """\
grid: {reuse_k: [1], layer_subset: [first, last]}
config_name: "{layer_subset}"
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallProject]:
    made = make_project(tmp_path / "project")
    monkeypatch.chdir(made.path)
    edit("workflow_config.yaml", "  choices:\n", "")
    reconcile(load_project())
    yield made


def job(run: Run, state: str = "RUNNING", number: int = 12) -> Job:
    node = "" if state == "PENDING" else "node-1"
    comment = comment_of("eval", names_of(run))
    return Job(id=str(number), state=state, comment=comment, work_dir=str(Path.cwd()), node=node)


def pack_job(state: str = "RUNNING") -> Job:
    comment = comment_of("pack", ["p"])
    return Job(id="9", state=state, comment=comment, work_dir=str(Path.cwd()), node="node-1")


def finish(run: Run) -> None:
    run.summary_path.write_text(json.dumps(fake_summary(run.spec())))


def seen(*jobs: Job, **more: object) -> dict[str, RunStatus]:
    statuses = reconcile(load_project(), jobs=queue_of(jobs), **more)
    return {status.run.config: status for status in statuses}


def test_a_job_at_work_with_earlier_settings_is_waited_for_and_not_taken_over() -> None:
    run = load_project().runs[0]
    edit("workflow_config.yaml", "threshold: 0.9", "threshold: 0.8")
    status = seen(job(run))[run.config]
    assert (status.state, status.is_adopted, status.is_to_be_made) == (State.RUNNING, False, False)
    assert status.reason == (
        "job 12 works with earlier settings (decoding.threshold 0.9 -> 0.8); wait for it, or end "
        "it: scancel 12"
    )
    spec = json.loads(run.spec_path.read_text())
    assert spec["fingerprint"] == run.fingerprint, "its job may read the file yet"


def test_a_job_that_waits_reads_the_settings_of_today() -> None:
    run = load_project().runs[0]
    edit("workflow_config.yaml", "threshold: 0.9", "threshold: 0.8")
    status = seen(job(run, "PENDING"))[run.config]
    assert (status.state, status.is_adopted, status.earlier) == (State.QUEUED, True, ())
    spec = json.loads(run.spec_path.read_text())
    assert spec["fingerprint"] == status.run.fingerprint != run.fingerprint


def test_a_pack_that_lives_is_not_asked_again_for_what_it_has_done() -> None:
    first, second = load_project().runs
    members = Path("results/_packs/p/members.json")
    members.parent.mkdir(parents=True)
    specs = [str(first.spec_path), str(second.spec_path)]
    members.write_text(json.dumps({"schema_version": 1, "specs": specs}))
    finish(first)
    statuses = seen(pack_job(), is_repeated=lambda _: True)
    assert not statuses[first.config].is_to_be_made
    assert statuses[second.config].is_adopted
    assert split_into_jobs([statuses[second.config]], load_project().config) == JobSplit(
        {}, {"p": (second,)}, frozenset(["p"])
    )


def test_a_failure_before_a_pack_came_to_the_run_is_not_its_own() -> None:
    first, second = load_project().runs
    members = Path("results/_packs/p/members.json")
    members.parent.mkdir(parents=True)
    specs = [str(first.spec_path), str(second.spec_path)]
    members.write_text(json.dumps({"schema_version": 1, "specs": specs}))
    (second.folder / "failed.json").write_text(json.dumps({"reason": "out of luck"}))
    journal = second.folder / "attempts.jsonl"

    def note(slurm_job: str) -> None:
        start = {"attempt": slurm_job, "time": "2026-01-01T00:00:00+00:00", "pid": 1, "host": "h"}
        journal.write_text(json.dumps({**start, "slurm_job": slurm_job}) + "\n")

    note("8")
    assert seen(pack_job())[second.config].state is State.QUEUED
    note("9")
    assert seen(pack_job())[second.config].state is State.FAILED


@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
def test_copies_wait_for_a_leader_that_has_a_job(state: str) -> None:
    add_experiment("two", ONE, REUSE)
    reconcile(load_project())
    named = {run.name: run for run in load_project().runs}
    jobs = queue_of([job(named["two/words/first"], state)])

    def left_out(selection: Selection, *, is_submitted: bool) -> frozenset[str]:
        statuses = reconcile(load_project(selection), jobs=jobs)
        return left_out_of(statuses, is_submitted=is_submitted)

    both, copy = Selection(experiments=("two",)), Selection(configs=("last",))
    assert left_out(both, is_submitted=True) == frozenset(), "made behind the job"
    assert left_out(copy, is_submitted=True) == {"two/words/last"}, "nobody waits for the job"
    assert left_out(both, is_submitted=False) == {"two/words/first", "two/words/last"}


@pytest.mark.slow
def test_unlock_is_a_way_out_whatever_else_is_wrong(project: SmallProject) -> None:
    locks = Path(".snakemake/locks")
    locks.mkdir(parents=True)
    (locks / "0.output.lock").write_text(f"{load_project().runs[0].summary_path}\n")
    refused = project.snakemake()
    assert (refused.returncode, "snakemake --unlock" in refused.stderr) == (2, True)
    assert project.snakemake("--unlock").returncode == 0
    assert not any(locks.glob("*.lock"))
    assert project.snakemake().returncode == 0
