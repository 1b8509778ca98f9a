"""Runs that are split into shards or packed, through the real rules with a pretended eval."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastdllm.cluster.slurm import Job
from fastdllm.runs.packs import members_path
from fastdllm.runs.shards import Shard
from fastdllm.workflow.project.runs import load_project
from fastdllm.workflow.splitting import JobSplit, split_into_jobs, stamp_paths, update_part_files
from fastdllm.workflow.status.queue import RunJob
from fastdllm.workflow.status.run_status import RunStatus, State
from tests.support.small_project import SmallProject, edit

SHARDED = ("words: {chunk_size: 2}", "words: {chunk_size: 2, shards: 3}")
PACKED = ("words: {chunk_size: 2}", "words: {chunk_size: 2, group: 2}")
WORDS = ("--config", "task=words")
# Not published, so that nothing comes back from artifacts/.
TRIAL = (*WORDS, "limit=1")


def done(project: SmallProject, *arguments: str) -> None:
    ended = project.snakemake(*arguments)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.slow
def test_the_life_of_a_sharded_project(project: SmallProject) -> None:
    edit("workflow_config.yaml", *SHARDED)
    assert project.jobs(*WORDS) == {"shard": 6, "finish": 2}
    done(project)
    shards = [f"words {c}_first {i}-of-3" for c in ("k1", "k2") for i in (1, 2, 3)]
    assert project.evals() == ["choices k1_first", "choices k2_first", *shards]
    assert project.jobs() == {}

    edit("workflow_config.yaml", "shards: 3", "shards: 5")
    assert project.jobs() == {}, "how the work is split makes nothing stale"
    edit("workflow_config.yaml", "threshold: 0.9", "threshold: 0.8")
    assert project.jobs(*WORDS) == {"shard": 10, "finish": 2}, "other settings, other answers"
    edit("workflow_config.yaml", "threshold: 0.8", "threshold: 0.9")
    assert project.jobs() == {}

    target = "results/demo/words/k1_first/summary.json"
    assert project.jobs("-R", target) == {"shard": 5, "finish": 1}, "a repeat decodes all parts"


@pytest.mark.slow
def test_what_shards_have_done_is_not_asked_for_again(project: SmallProject) -> None:
    edit("workflow_config.yaml", *SHARDED)
    done(project, *TRIAL)
    folder = Path("results/demo/words_limit_1/k1_first")
    (folder / "summary.json").unlink()
    assert project.jobs(*TRIAL) == {"finish": 1}, "all parts are there"
    (folder / "shards/2-of-3.json").unlink()
    assert project.jobs(*TRIAL) == {"shard": 1, "finish": 1}
    (folder / "shards/1-of-3.jsonl").unlink()
    assert project.jobs(*TRIAL) == {"shard": 2, "finish": 1}, "a stamp without answers is no stamp"


@pytest.mark.slow
def test_the_life_of_a_packed_project(project: SmallProject) -> None:
    edit("workflow_config.yaml", *PACKED)
    assert project.jobs(*WORDS) == {"pack": 1, "finish": 2}
    done(project)
    runs = [f"{task} {config}_first" for task in ("choices", "words") for config in ("k1", "k2")]
    assert project.evals() == sorted([*runs, "pack of 2"])
    assert project.jobs() == {}
    summary = Path("results/demo/words/k1_first/summary.json")
    assert project.jobs(str(summary), "--force") == {"eval": 1}, "alone it needs no pack"
    assert project.jobs("-R", "eval", *WORDS) == {"pack": 1, "finish": 2}


@pytest.mark.slow
def test_a_failing_member_of_a_pack_stops_no_other(project: SmallProject) -> None:
    edit("workflow_config.yaml", *PACKED)
    Path("fail_k1_first").touch()
    ended = project.snakemake(*WORDS)
    assert ended.returncode == 1
    assert project.evals() == ["pack of 2", "words k2_first"]
    assert Path("results/demo/words/k2_first/summary.json").exists()
    Path("fail_k1_first").unlink()
    assert project.jobs(*WORDS) == {"eval": 1}, "only the one that is missing, and it is alone"


def words() -> list[RunStatus]:
    """The runs on the task `words`, none of which is made."""
    return [RunStatus(run, State.MISSING) for run in load_project().runs if run.task == "words"]


def with_job(status: RunStatus, rule: str, **what: Any) -> RunStatus:
    job = RunJob(Job(id="7", state="RUNNING"), rule, **what)
    return replace(status, state=State.RUNNING, jobs=(job,))


@pytest.mark.usefixtures("project")
def test_only_the_runs_that_are_made_are_packed() -> None:
    edit("workflow_config.yaml", *PACKED)
    both, config = words(), load_project().config
    split = split_into_jobs(both, config)
    runs = [status.run for status in both]
    assert list(split.packs.values()) == [tuple(runs)]
    assert split_into_jobs(both[:1], config) == JobSplit()
    assert split.jobs(runs) == 1
    assert split_into_jobs(both, config).packs.keys() == split.packs.keys()


@pytest.mark.usefixtures("project")
def test_there_are_no_more_shards_than_chunks_unless_it_was_begun_so() -> None:
    edit("workflow_config.yaml", *SHARDED)
    both, config = words(), load_project().config
    assert set(split_into_jobs(both, config).shards.values()) == {3}
    plan = both[0].run.plan_folder / "plan.json"
    plan.parent.mkdir(parents=True)
    plan.write_text(json.dumps({"chunks": [[0, 1], [2, 3]]}))
    assert set(split_into_jobs(both, config).shards.values()) == {2}
    begun = stamp_paths(both[0].run, 3)[0].with_suffix(".jsonl")
    begun.parent.mkdir(parents=True)
    begun.touch()
    assert split_into_jobs(both, config).shards == {both[0].run.name: 3, both[1].run.name: 2}
    plan.write_text(json.dumps({"chunks": [[0, 1]]}))
    assert split_into_jobs(both[1:], config) == JobSplit()


@pytest.mark.usefixtures("project")
def test_living_jobs_keep_the_cut_they_were_submitted_with() -> None:
    edit("workflow_config.yaml", *SHARDED)
    first, second = words()
    statuses = [with_job(first, "eval"), with_job(second, "shard", shard=Shard(4, 5))]
    assert split_into_jobs(statuses, load_project().config) == JobSplit({"demo/words/k2_first": 5})


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("stamps", "kept"),
    [
        ([("float16", "here"), ("bfloat16", "here"), ("float16", "here")], [True, False, True]),
        ([("float16", "here"), ("float16", "there"), ("float16", "here")], [True, False, True]),
        ([("float16", "there"), ("float16", "there"), ("float16", "here")], [False, False, True]),
        ([("float16", "there"), ("float16", "there"), ("float16", "there")], [True, True, True]),
        ([("float16", "there"), ("float16", "here")], [False, True, False]),
        ([("float16", None), ("float16", "here")], [False, True, False]),
    ],
)
def test_stamps_that_do_not_fit_the_others_do_not_count(
    monkeypatch: pytest.MonkeyPatch, stamps: list[tuple[str, str | None]], kept: list[bool]
) -> None:
    monkeypatch.setattr("fastdllm.workflow.splitting.code_digest", lambda: "here")
    edit("workflow_config.yaml", *SHARDED)
    run = words()[0].run
    parts = stamp_paths(run, 3)
    parts[0].parent.mkdir(parents=True)
    for seconds, (stamp, (dtype, code)) in enumerate(zip(parts, stamps, strict=False)):
        record = {"fingerprint": run.fingerprint, "dtype": dtype}
        stamp.write_text(json.dumps(record | ({"code_digest": code} if code else {})))
        stamp.with_suffix(".jsonl").touch()
        os.utime(stamp, (seconds, seconds))
    update_part_files(JobSplit({run.name: 3}), [run])
    assert [stamp.exists() for stamp in parts] == kept


@pytest.mark.usefixtures("project")
def test_a_living_pack_is_followed_whoever_of_it_is_done() -> None:
    edit("workflow_config.yaml", *PACKED)
    both, config = words(), load_project().config
    runs = [status.run for status in both]
    split = split_into_jobs(both, config)
    update_part_files(split, runs)
    (pack,) = split.packs
    content = members_path(pack).read_text()
    assert json.loads(content)["specs"] == [str(run.spec_path) for run in runs]
    later = split_into_jobs([with_job(both[1], "pack", pack=pack)], config)
    assert later == JobSplit({}, {pack: (runs[1],)}, frozenset({pack}))
    update_part_files(later, runs[1:])
    assert members_path(pack).read_text() == content
