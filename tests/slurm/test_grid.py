"""Runs in shards and in packs on the cluster."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.slurm.lab import Lab
from tests.slurm.projects import (
    EXPERIMENT,
    TASK,
    ClusterProject,
    assert_equal,
    make_one_job,
    make_project,
)

pytestmark = pytest.mark.slow
SHARDS = 3


def test_shards_answer_as_one_job_though_one_is_preempted_and_snakemake_is_killed(
    lab: Lab, reference: ClusterProject, tmp_path: Path
) -> None:
    project = make_project(tmp_path / "project", lab, shards=SHARDS)
    with project.started("config=k2_first", qos="embers") as main:
        jobs = lab.wait_until(lambda: at_work(project, SHARDS), what="shards at work")
        main.kill()
    # Nodes have two GPUs, so that another node has a shard that goes on.
    shard = jobs[0]
    node = f"--nodelist={shard['node']}"
    lab.submit("sleep 1", "--qos=inferno", node, "--gres=gpu:RTX_6000:2")
    lab.wait_until(lambda: lab.jobs()[shard["id"]]["restarts"] == "1", what="requeue")
    done = project.snakemake("config=k2_first", qos="embers")
    assert done.returncode == 0, done.stdout + done.stderr
    counts = Counter(job["comment"] for job in project.jobs().values())
    parts = [f"{i}-of-{SHARDS}" for i in range(1, SHARDS + 1)]
    run = f"rule_shard_wildcards_{EXPERIMENT}_{TASK}_k2_first"
    assert counts == {f"{run}_{part}": 1 for part in parts}
    assert_equal(project, reference, "k2_first")


def test_runs_that_share_a_job(lab: Lab, reference: ClusterProject, tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", lab, group=2)
    configs = ("k1_first", "k2_middle")
    done = project.snakemake(f"config={','.join(configs)}")
    assert done.returncode == 0, done.stdout + done.stderr
    (job,) = project.jobs().values()
    assert (job["state"], job["comment"].startswith("rule_pack_")) == ("COMPLETED", True)
    for config in configs:
        assert_equal(project, reference, config)


def test_a_run_that_fails_leaves_its_earlier_result(lab: Lab, tmp_path: Path) -> None:
    """Each Snakemake involved cleans up after the failure: here, in the job, and in its step."""
    project = make_one_job(tmp_path, lab, "exit 1")
    # The earlier result is as old as can be, the input newer.
    (tmp_path / "summary.json").write_text("earlier")
    os.utime(tmp_path / "summary.json", (1, 1))
    done = project.snakemake()
    assert done.returncode == 1 and "SLURM job" in done.stderr
    assert (tmp_path / "summary.json").read_text() == "earlier"


def at_work(project: ClusterProject, count: int) -> list[dict[str, str]]:
    """The jobs that run, once there are so many."""
    found = [job for job in project.jobs().values() if job["state"] == "RUNNING"]
    return found if len(found) >= count else []
