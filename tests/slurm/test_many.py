"""`fastdllm status` of a full queue."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.slurm.lab import Lab
from tests.slurm.projects import EXPERIMENT, TASK, ClusterProject, make_project

pytestmark = pytest.mark.slow
QUEUED = 200
SUBMIT = """\
while read comment; do
  sbatch --hold --account=gts-lab --comment="$comment" --output=/dev/null \\
    --wrap=true < /dev/null || exit 1
done < comments
"""
COUNTING = """\
#!/bin/sh
echo >> "$0.calls"
exec {squeue} "$@"
"""


def make_queued_runs(lab: Lab, path: Path) -> ClusterProject:
    """A project of as many runs, each of which has a job that waits."""
    project = make_project(path, lab)
    file = path / f"experiments/{EXPERIMENT}/experiment.yaml"
    experiment = yaml.safe_load(file.read_text())
    seeds = list(range(QUEUED))
    experiment |= {"grid": {"seed": seeds}, "config_name": "s{seed}"}
    file.write_text(yaml.safe_dump(experiment))
    run = f"rule_eval_wildcards_{EXPERIMENT}_{TASK}"
    (path / "comments").write_text("".join(f"{run}_s{seed}\n" for seed in seeds))
    done = lab.run("bash", "-c", SUBMIT, cwd=path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(project.jobs()) == QUEUED
    return project


def cpu_seconds() -> float:
    """What the children of this process have used; tests that run beside it do not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_the_status_of_200_queued_runs_takes_less_than_a_second(lab: Lab, tmp_path: Path) -> None:
    project = make_queued_runs(lab, tmp_path / "project")
    squeue = tmp_path / "bin/squeue"
    squeue.parent.mkdir()
    squeue.write_text(COUNTING.format(squeue=shutil.which("squeue")))
    squeue.chmod(0o755)
    path = os.pathsep.join([str(squeue.parent), lab.environment["PATH"]])
    counted = replace(lab, environment=lab.environment | {"PATH": path})
    status = (sys.executable, "-m", "fastdllm", "status", "--json")
    seconds = []
    for _ in range(3):  # of which the quickest: processors that are shared are slower
        shutil.rmtree(lab.environment["XDG_CACHE_HOME"], ignore_errors=True)
        squeue.with_name("squeue.calls").unlink(missing_ok=True)
        before = cpu_seconds()
        done = counted.run(*status, cwd=project.path)
        seconds.append(cpu_seconds() - before)
        assert json.loads(done.stdout)["totals"]["queued"] == QUEUED, done.stdout[:500]
        assert len(squeue.with_name("squeue.calls").read_text().splitlines()) == 1
    assert min(seconds) < 1.0, seconds
