"""Which SLURM jobs belong to which run, and what they wait for in words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fastdllm.cluster.jobs import comment_of
from fastdllm.cluster.slurm import Job, SlurmError
from fastdllm.common.errors import UserError
from fastdllm.runs.attempts import Attempt
from fastdllm.runs.shards import Shard
from fastdllm.workflow.project.runs import Run, load_project
from fastdllm.workflow.status import queue as module
from fastdllm.workflow.status.queue import (
    queue_of,
    read_queue,
    reason_in_words,
    refuse_ambiguous,
    requeues_in_words,
)
from tests.support.small_project import make_project

EVAL = comment_of("eval", ["demo", "words", "k1_first"])
SHARD = comment_of("shard", ["demo", "words", "k1_first", ""])


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """The run demo/words/k1_first of a small project, which is the working directory."""
    monkeypatch.chdir(make_project(tmp_path / "project").path)
    yield load_project().runs[0]


def job(number: int, comment: str = EVAL, state: str = "RUNNING", **values: object) -> Job:
    fields = {"id": str(number), "state": state, "comment": comment, "work_dir": str(Path.cwd())}
    return Job(**{**fields, **values})


def test_a_job_is_known_by_its_comment_and_its_folder(run: Run) -> None:
    other = comment_of("eval", ["demo", "words", "k2_first"])
    strangers = [job(1, work_dir="/elsewhere"), job(2, other), job(3, "rule_plan"), job(4, "")]
    jobs = queue_of([*strangers, job(5)]).of(run)
    assert [(j.job.id, j.rule, j.shard, j.pack) for j in jobs] == [("5", "eval", None, None)]


def test_a_folder_may_be_reached_by_another_name(run: Run, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(Path.cwd())
    assert queue_of([job(1, work_dir=str(tmp_path / "link"))]).of(run)


def test_each_shard_has_its_job(run: Run) -> None:
    jobs = [job(7, f"{SHARD}2-of-2", "PENDING"), job(6, f"{SHARD}1-of-2")]
    of_run = queue_of(jobs).of(run)
    assert [(j.shard, j.is_at_work, j.is_waiting) for j in of_run] == [
        (Shard(1, 2), True, False),
        (Shard(2, 2), False, True),
    ]


def test_the_members_of_a_pack_have_its_job(run: Run) -> None:
    folder = Path("results/_packs/p1")
    folder.mkdir(parents=True)
    (folder / "members.json").write_text(
        json.dumps({"schema_version": 1, "specs": [str(run.spec_path)]})
    )
    queue = queue_of([job(1, comment_of("pack", ["p1"])), job(2, comment_of("pack", ["p2"]))])
    assert [(j.rule, j.pack) for j in queue.of(run)] == [("pack", "p1")]
    assert queue.of(load_project().runs[1]) == ()


@pytest.mark.parametrize(
    ("states", "counts"),
    [
        (("CANCELLED", "PENDING", "RUNNING", "PENDING"), "3"),
        (("CANCELLED", "PENDING", "PENDING"), "2"),
        (("CANCELLED", "TIMEOUT"), "2"),
        (("RUNNING", "CANCELLED"), "1"),
    ],
)
def test_of_several_jobs_for_a_run_one_counts(
    run: Run, states: tuple[str, ...], counts: str
) -> None:
    jobs = [job(number, state=state) for number, state in enumerate(states, 1)]
    for ordered in (jobs, jobs[::-1]):
        assert [j.job.id for j in queue_of(ordered).of(run)] == [counts]


def test_ids_are_compared_as_numbers(run: Run) -> None:
    jobs = [job(9, state="FAILED"), job(10, state="CANCELLED")]
    assert [j.job.id for j in queue_of(jobs).of(run)] == ["10"]


@pytest.mark.parametrize(
    ("reason", "restarts", "words"),
    [
        ("Priority", 0, "waits behind jobs of higher priority"),
        ("Resources", 0, "waits for free resources"),
        ("BeginTime", 0, "waits for its begin time"),
        ("BeginTime", 2, "waits for its next turn after a requeue"),
        ("JobHeldUser", 0, "held by its owner: scontrol release 12"),
        ("QOSMaxJobsPerUserLimit", 0, "your running jobs have reached the limit of the QOS"),
        ("QOSGrpCpuLimit", 0, "a limit of the QOS (QOSGrpCpuLimit)"),
        ("AssocGrpMemLimit", 0, "a limit of the account (AssocGrpMemLimit)"),
        ("ReqNodeNotAvail, UnavailableNodes:a[1-2]", 0, "its nodes are down, or reserved"),
        ("BurstBufferResources", 0, "waits (BurstBufferResources)"),
    ],
)
def test_reasons_are_told_in_words(reason: str, restarts: int, words: str) -> None:
    assert reason_in_words(Job("12", "PENDING", reason, restarts=restarts)) == words


def test_requeues_are_told_by_what_caused_them() -> None:
    attempts = [
        Attempt(slurm_job="12", why="SIGTERM"),
        Attempt(slurm_job="12", why="time limit"),
        Attempt(slurm_job="12", why="SIGTERM"),
        Attempt(slurm_job="11", why="SIGTERM"),
    ]
    asked = Job("12", "PENDING", restarts=4)
    assert requeues_in_words(asked, attempts) == "preempted twice, out of time once, requeued once"
    assert requeues_in_words(asked, []) == "requeued 4 times"
    assert requeues_in_words(Job("12", "RUNNING"), attempts) == ""


def test_runs_whose_jobs_could_not_be_told_apart_are_refused(run: Run) -> None:
    other = replace(run, task="words_k1", config="first")
    with pytest.raises(UserError, match="demo/words/k1_first and demo/words_k1/first: their names"):
        refuse_ambiguous([run, other])
    refuse_ambiguous(load_project().all_runs)


def test_outside_slurm_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_slurm", lambda: False)
    monkeypatch.setattr(module, "own_jobs", lambda **_: pytest.fail("asked squeue"))
    assert read_queue() is None


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ("squeue: no answer for 60 s", "squeue: no answer for 60 s"),
        ("squeue: fatal: Could not establish a configuration source", None),
    ],
)
def test_squeue_may_fail_or_belong_to_no_cluster(
    message: str, problem: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: float) -> list[Job]:
        raise SlurmError(message)

    monkeypatch.setattr(module, "has_slurm", lambda: True)
    monkeypatch.setattr(module, "own_jobs", fail)
    queue = read_queue()
    assert (queue.problem if queue is not None else None) == problem
