"""Runs that are cut into shards or packed, through the real rules with a pretended eval."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastdllm.cluster.slurm import Job
from fastdllm.workflow.cuts import Cuts, cut, members_path, settle
from fastdllm.workflow.runs import load_project
from tests.workflow.conftest import SmallProject, edit

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
    assert project.jobs() == {}, "how the work is cut makes nothing stale"
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


@pytest.mark.usefixtures("project")
def test_only_the_runs_that_are_made_are_packed() -> None:
    edit("workflow_config.yaml", *PACKED)
    loaded = load_project()
    words = [run for run in loaded.runs if run.task == "words"]
    cuts = cut(words, loaded.config, {})
    assert list(cuts.packs.values()) == [tuple(words)]
    assert cut(words[:1], loaded.config, {}) == Cuts({}, {})
    assert cuts.jobs(words) == 1
    assert cut(words, loaded.config, {}).packs.keys() == cuts.packs.keys()


def live(*comments: str) -> dict[str, Job]:
    return {comment: Job(id="7", state="RUNNING", comment=comment) for comment in comments}


@pytest.mark.usefixtures("project")
def test_living_jobs_keep_the_cut_they_were_submitted_with() -> None:
    edit("workflow_config.yaml", *SHARDED)
    loaded = load_project()
    words = [run for run in loaded.runs if run.task == "words"]
    jobs = live(
        "rule_eval_wildcards_demo_words_k1_first",
        "rule_shard_wildcards_demo_words_k2_first_4-of-5",
    )
    assert cut(words, loaded.config, jobs) == Cuts({"demo/words/k2_first": 5}, {})


@pytest.mark.usefixtures("project")
def test_a_living_pack_is_followed_whoever_of_it_is_done() -> None:
    edit("workflow_config.yaml", *PACKED)
    loaded = load_project()
    words = [run for run in loaded.runs if run.task == "words"]
    cuts = cut(words, loaded.config, {})
    settle(cuts, words, {})
    (pack,) = cuts.packs
    content = members_path(pack).read_text()
    assert json.loads(content)["specs"] == [str(run.spec_path) for run in words]
    jobs = live(f"rule_pack_wildcards_{pack}")
    left = cut(words[1:], loaded.config, jobs)
    assert left == Cuts({}, {pack: (words[1],)})
    settle(left, words[1:], jobs)
    assert members_path(pack).read_text() == content
