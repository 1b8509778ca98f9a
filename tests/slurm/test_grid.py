"""Grids on the cluster that nothing happens to, and one whose Snakemake dies."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.lab import Lab
from tests.slurm.projects import CONFIGS, EXPERIMENT, TASK, ClusterProject, make_project

pytestmark = pytest.mark.slow


def facts(project: ClusterProject, config: str) -> dict[str, Any]:
    """What a summary says of the answers, without times and machine."""
    record = json.loads((project.folder(config) / "summary.json").read_text())
    keys = ("fingerprint", "decides", "accuracy", "metrics", "items", "passes", "dtype")
    return {key: record[key] for key in keys}


def samples(project: ClusterProject, config: str) -> bytes:
    return (project.folder(config) / "samples.jsonl").read_bytes()


def assert_equal(made: ClusterProject, reference: ClusterProject, config: str) -> None:
    """Answers, samples and figures of a run are those of the reference."""
    assert made.answers(config) == reference.answers(config), config
    assert samples(made, config) == samples(reference, config), config
    assert facts(made, config) == facts(reference, config), config


def test_the_nine_configs(lab: Lab, reference: ClusterProject, tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", lab)
    done = project.snakemake()
    assert done.returncode == 0, done.stdout + done.stderr
    states = [job["state"] for job in project.jobs().values()]
    assert states == ["COMPLETED"] * 9
    comments = {job["comment"]: job["id"] for job in project.jobs().values()}
    for config in CONFIGS:
        assert_equal(project, reference, config)
        run = f"{TASK}_limit_{project.limit}"
        log = project.path / f"logs/eval/{EXPERIMENT}/{run}/{config}.log"
        assert f"{project.limit}/{project.limit} items" in log.read_text()
        job = comments[f"rule_eval_wildcards_{EXPERIMENT}_{run}_{config}"]
        of_slurm = f"logs/slurm/rule_eval/{EXPERIMENT}_{run}_{config}/{job}.log"
        assert (project.path / of_slurm).exists()
    again = project.snakemake("-n")
    assert "Nothing to be done" in again.stdout + again.stderr


@pytest.mark.parametrize("shards", [2, 5])
def test_shards_answer_as_one_job_though_snakemake_is_killed(
    lab: Lab, reference: ClusterProject, tmp_path: Path, shards: int
) -> None:
    project = make_project(tmp_path / "project", lab, shards=shards)
    main = project.start("config=k2_first")
    lab.wait_until(lambda: at_work(project) >= 2, timeout=180, what="shards at work")
    main.send_signal(signal.SIGKILL)
    main.wait()
    done = project.snakemake("config=k2_first")
    assert done.returncode == 0, done.stdout + done.stderr
    counts = Counter(job["comment"] for job in project.jobs().values())
    parts = [f"{i}-of-{shards}" for i in range(1, shards + 1)]
    run = f"rule_shard_wildcards_{EXPERIMENT}_{TASK}_limit_{project.limit}_k2_first"
    assert counts == {f"{run}_{part}": 1 for part in parts}
    assert_equal(project, reference, "k2_first")


def at_work(project: ClusterProject) -> int:
    return sum(job["state"] == "RUNNING" for job in project.jobs().values())
