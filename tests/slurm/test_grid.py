"""Grids on the cluster without faults, and one whose Snakemake dies."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.lab import Lab
from tests.slurm.projects import CONFIGS, EXPERIMENT, TASK, ClusterProject, make_project

pytestmark = pytest.mark.slow


def facts(folder: Path) -> dict[str, Any]:
    """What a summary says of the answers, without times and machine."""
    record = json.loads((folder / "summary.json").read_text())
    keys = ("fingerprint", "decides", "accuracy", "metrics", "items", "passes", "dtype")
    return {key: record[key] for key in keys}


def samples(project: ClusterProject, config: str) -> bytes:
    return (project.folder(config) / "samples.jsonl").read_bytes()


def assert_equal(made: ClusterProject, reference: ClusterProject, config: str) -> None:
    """Answers, samples and figures of a run are those of the reference."""
    assert made.answers(config) == reference.answers(config), config
    assert samples(made, config) == samples(reference, config), config
    assert facts(made.folder(config)) == facts(reference.folder(config)), config


def test_the_nine_configs(lab: Lab, reference: ClusterProject, tmp_path: Path) -> None:
    assert facts(reference.folder("k1_first"))["accuracy"] > 0.8, "the model knows how"
    project = make_project(tmp_path / "project", lab)
    done = project.snakemake()
    assert done.returncode == 0, done.stdout + done.stderr
    states = [job["state"] for job in project.jobs().values()]
    assert states == ["COMPLETED"] * 9
    comments = {job["comment"]: job["id"] for job in project.jobs().values()}
    for config in CONFIGS:
        assert_equal(project, reference, config)
        published = [facts(p.artifact(config)) for p in (project, reference)]
        assert published[0] == published[1] == facts(project.folder(config))
        log = project.path / f"logs/eval/{EXPERIMENT}/{TASK}/{config}.log"
        assert f"{project.n_items}/{project.n_items} items" in log.read_text()
        job = comments[f"rule_eval_wildcards_{EXPERIMENT}_{TASK}_{config}"]
        of_slurm = f"logs/slurm/rule_eval/{EXPERIMENT}_{TASK}_{config}/{job}.log"
        assert (project.path / of_slurm).exists()
    again = project.snakemake("-n")
    assert "Nothing to be done" in again.stdout + again.stderr


@pytest.mark.parametrize(("shards", "is_preempted"), [(2, True), (5, False)])
def test_shards_answer_as_one_job_though_snakemake_is_killed(
    lab: Lab, reference: ClusterProject, tmp_path: Path, shards: int, is_preempted: bool
) -> None:
    project = make_project(tmp_path / "project", lab, shards=shards)
    with project.started("config=k2_first", qos="embers") as main:
        working = lab.wait_until(lambda: at_work(project, 2), what="shards at work")
        main.kill()
    if is_preempted:
        node = f"--nodelist={working[0]['node']}"
        lab.submit("sleep 1", "--qos=inferno", node, "--gres=gpu:RTX_6000:2")
        shard = working[0]["id"]
        lab.wait_until(lambda: lab.jobs()[shard]["restarts"] == "1", what="requeue")
    done = project.snakemake("config=k2_first", qos="embers")
    assert done.returncode == 0, done.stdout + done.stderr
    counts = Counter(job["comment"] for job in project.jobs().values())
    parts = [f"{i}-of-{shards}" for i in range(1, shards + 1)]
    run = f"rule_shard_wildcards_{EXPERIMENT}_{TASK}_k2_first"
    assert counts == {f"{run}_{part}": 1 for part in parts}
    assert_equal(project, reference, "k2_first")


def test_runs_that_share_a_job(lab: Lab, reference: ClusterProject, tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", lab, group=3)
    configs = ("k1_first", "k2_middle", "k3_last")
    done = project.snakemake(f"config={','.join(configs)}")
    assert done.returncode == 0, done.stdout + done.stderr
    (job,) = project.jobs().values()
    assert (job["state"], job["comment"].startswith("rule_pack_")) == ("COMPLETED", True)
    for config in configs:
        assert_equal(project, reference, config)


def at_work(project: ClusterProject, count: int) -> list[dict[str, str]]:
    """The jobs that run, once there are so many."""
    found = [job for job in project.jobs().values() if job["state"] == "RUNNING"]
    return found if len(found) >= count else []
