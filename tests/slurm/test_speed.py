"""Speeds on the cluster: a job per sitting, which goes on after its last round when preempted."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.slurm.faults import eval_processes, send
from tests.slurm.lab import Lab
from tests.slurm.projects import EXPERIMENT, GRID_S, TASK, make_project

pytestmark = pytest.mark.slow

SPEED = """\
speed:
  baseline: k1_first
  configs: [k2_first]
  batch_sizes: [1]
  sittings: 3
  precision: 0.5
"""


def test_a_preempted_sitting_keeps_its_rounds(lab: Lab, tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", lab, n_items=2)
    with (project.path / f"experiments/{EXPERIMENT}/experiment.yaml").open("a") as stream:
        stream.write(SPEED)
    folder = project.path / f"results/{EXPERIMENT}/{TASK}/_speed"

    def rounds() -> list[str]:
        path = folder / "rounds-1.jsonl"
        return path.read_text().splitlines()[1:] if path.exists() else []

    with project.started(target="speed", qos="embers") as main:
        (job,) = lab.wait_until(lambda: list(project.jobs().values()), what="a job")
        lab.wait_for_state(job["id"], "RUNNING")
        job = lab.jobs()[job["id"]]
        lab.wait_until(lambda: len(rounds()) >= 2, what="rounds of a sitting")
        # Else it might be done before it is preempted.
        send(eval_processes(project, job["id"]), signal.SIGSTOP)
        kept = [json.loads(line)["seconds"]["k1_first"] for line in rounds()[:2]]
        gpus = (f"--nodelist={job['node']}", "--gres=gpu:RTX_6000:2")
        lab.submit("sleep 1", "--qos=inferno", *gpus)
        lab.wait_until(lambda: lab.jobs()[job["id"]]["restarts"] == "1", what="requeue")
        assert main.wait(GRID_S) == 0, project.main_log()
    first, *others = (json.loads((folder / f"sitting-{n}.json").read_text()) for n in (1, 2, 3))
    assert first["processes"] == 2
    assert [sitting["processes"] for sitting in others] == [1, 1]
    (batch,) = first["batches"]
    assert batch["seconds"]["k1_first"][:2] == kept
    names = {
        job["comment"].removeprefix("rule_sitting_wildcards_") for job in project.jobs().values()
    }
    assert names == {f"{EXPERIMENT}_{TASK}_{n}" for n in (1, 2, 3)}, "a job for each sitting"
    record = json.loads((project.path / f"artifacts/{EXPERIMENT}/{TASK}/speed.json").read_text())
    assert [e["config"] for e in record["estimates"]] == ["k1_first again", "k2_first"]
