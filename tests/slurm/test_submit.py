"""`fastdllm submit`: Snakemake as a job, and the documented commands of SLURM itself."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections import Counter
from getpass import getuser
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.lab import Lab
from tests.slurm.projects import (
    EXPERIMENT,
    GRID_S,
    IN_LAB,
    ROOT,
    TASK,
    ClusterProject,
    assert_equal,
    facts,
    make_project,
)

pytestmark = pytest.mark.slow
# SLURM looks at time limits every 30 s, and warns the job two minutes before its own.
LIMIT_S = 125
RUNS = ("k1_first", "k2_middle")
OF_SLURM = re.compile(r"`((?:squeue|scontrol|sacct|sinfo|sacctmgr) [^`]*)`")
PAGES = ("docs/reference/pace-cluster.md", "docs/operations.md", "docs/troubleshooting.md")


def test_runs_go_on_though_the_main_process_meets_its_time_limit(
    lab: Lab, reference: ClusterProject, tmp_path: Path
) -> None:
    assert facts(reference.folder("k1_first"))["accuracy"] > 0.8, "the model knows how"
    project = make_project(tmp_path / "project", lab)
    # One GPU is left: of two runs, one waits.
    for options in (("--nodelist=g1", "--gres=gpu:RTX_6000:2"), ("--gres=gpu:RTX_6000:1",)):
        lab.wait_for_state(lab.submit("sleep 900", *options), "RUNNING")
    words = ("--profile", "profiles/pace", *IN_LAB)
    site = ("--config", f"config={','.join(RUNS)}", "account=gts-lab", "gpu=RTX_6000", "qos=embers")
    submit = (sys.executable, "-m", "fastdllm", "submit", "--hours", "0.5", *words, *site)
    done = lab.run(*submit, cwd=project.path)
    assert done.returncode == 0, done.stdout + done.stderr
    (main,) = (job["id"] for job in project.jobs().values() if job["comment"] == "fastdllm_main")
    lab.wait_until(lambda: len(evals(project)) == len(RUNS), what="submitted runs")
    (told,) = main_processes(project)
    assert told["words"].startswith(f"SLURM job {main} on ")
    assert shlex.split(told["command"])[1:] == ["submit", "--hours=0.5", *words, *site]
    assert (project.path / told["log"]).exists()
    # Without it both might be done before SLURM looks at the time limit.
    (waiting,) = (j["id"] for j in project.jobs().values() if j["state"] == "PENDING")
    lab.ask("scontrol", "hold", waiting)
    lab.end_in(main, seconds=LIMIT_S)
    lab.wait_until(lambda: lab.jobs()[main]["restarts"] == "1", timeout=GRID_S, what="requeue")
    lab.ask("scontrol", "release", waiting)
    lab.wait_for_state(main, "COMPLETED", timeout=GRID_S)
    lab.wait_until(lambda: main_processes(project) == [], what="an answer of squeue without it")
    assert evals(project) == Counter(RUNS), "each run has had one job"
    assert {job["state"] for job in project.jobs().values()} == {"COMPLETED"}
    comments = {job["comment"]: job["id"] for job in project.jobs().values()}
    for config in RUNS:
        assert_equal(project, reference, config)
        published = [facts(p.artifact(config)) for p in (project, reference)]
        assert published[0] == published[1] == facts(project.folder(config))
        log = project.path / f"logs/eval/{EXPERIMENT}/{TASK}/{config}.log"
        assert f"{project.n_items}/{project.n_items} items" in log.read_text()
        job = comments[f"rule_eval_wildcards_{EXPERIMENT}_{TASK}_{config}"]
        of_slurm = f"logs/slurm/rule_eval/{EXPERIMENT}_{TASK}_{config}/{job}.log"
        assert (project.path / of_slurm).exists()
    again = project.snakemake(f"config={','.join(RUNS)}", "-n", qos="embers")
    assert "Nothing to be done" in again.stdout + again.stderr


def main_processes(project: ClusterProject) -> list[dict[str, Any]]:
    """What `fastdllm status` tells of them."""
    command = (sys.executable, "-m", "fastdllm", "status", "--json")
    return json.loads(project.lab.run(*command, cwd=project.path).stdout)["main_processes"]


def evals(project: ClusterProject) -> Counter[str]:
    """How many SLURM jobs each config has had."""
    configs = (project.config_of(job["comment"]) for job in project.jobs().values())
    return Counter(config for config in configs if config is not None)


def test_the_documented_commands_of_slurm(lab: Lab) -> None:
    found = {c for page in PAGES for c in OF_SLURM.findall((ROOT / page).read_text())}
    assert len(found) >= 5, found
    job = lab.submit("sleep 1")
    for command in found:
        done = lab.run("bash", "-c", command.replace("JOBID", job).replace("$USER", getuser()))
        assert (done.returncode, done.stderr) == (0, ""), command
        assert done.stdout, command
