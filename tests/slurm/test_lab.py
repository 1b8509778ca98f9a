"""What SLURM itself does in each fault; the project relies on these states and waits."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.slurm.daemons import LABS, clean_up_the_dead, processes_in
from tests.slurm.lab import PATIENCE_S, Lab

pytestmark = pytest.mark.slow

RTX = "--gres=gpu:RTX_6000:1"
V100 = ("--partition=gpu-v100", "--gres=gpu:V100:2")
ROOT = Path(__file__).parents[2]


def said(lab: Lab, job: str) -> str:
    """What a job wrote, SLURM's last words included."""
    return (lab.folder / f"log/job-{job}.out").read_text()


def test_a_job_gets_a_gpu_of_the_kind_asked_for(lab: Lab) -> None:
    job = lab.submit("echo on $SLURMD_NODENAME: $CUDA_VISIBLE_DEVICES", *V100)
    lab.wait_for_state(job, "COMPLETED")
    assert said(lab, job) == "on g3: 0,1\n"


def test_a_kind_that_no_node_has_is_refused(lab: Lab) -> None:
    done = lab.run("sbatch", "--account=gts-lab", "--gres=gpu:H100:1", "--wrap=true")
    assert done.returncode == 1
    assert "Requested node configuration is not available" in done.stderr


def test_cancelled_by_a_person_stays_cancelled(lab: Lab) -> None:
    job = lab.submit("sleep 900", RTX, "--requeue")
    lab.wait_for_state(job, "RUNNING")
    lab.ask("scancel", job)
    lab.wait_for_state(job, "CANCELLED")
    assert "CANCELLED AT" in said(lab, job)
    assert lab.accounted(job) == f"CANCELLED by {os.getuid()}"


def test_a_time_limit_warns_the_step_first_and_is_told_as_such(lab: Lab) -> None:
    warned = lab.submit("srun sleep 900", RTX, "--time=60", "--signal=USR1@120")
    ended = lab.submit("sleep 900", RTX, "--requeue", "--time=60")
    for job, seconds in ((warned, 100), (ended, 1)):
        lab.wait_for_state(job, "RUNNING")
        lab.end_in(job, seconds=seconds)
    lab.wait_for_state(ended, "TIMEOUT")
    assert "DUE TO TIME LIMIT" in said(lab, ended)
    lab.wait_for_state(warned, "FAILED")
    assert "User defined signal 1" in said(lab, warned)


def test_a_preempted_job_is_requeued_and_runs_again_soon(lab: Lab) -> None:
    free = lab.submit("sleep 900", *V100, "--qos=embers", "--requeue", "--open-mode=append")
    lost = lab.submit(
        "sleep 900", RTX, "--nodelist=g1", "--exclusive", "--qos=embers", "--no-requeue"
    )
    for job in (free, lost):
        lab.wait_for_state(job, "RUNNING")
    paid = lab.submit("sleep 2", *V100, "--qos=inferno")
    lab.submit("sleep 2", RTX, "--nodelist=g1", "--exclusive", "--qos=inferno")
    lab.wait_for_state(lost, "PREEMPTED")
    lab.wait_until(lambda: lab.jobs()[free]["restarts"] == "1", what="requeue")
    assert "DUE TO PREEMPTION" in said(lab, free)
    lab.wait_for_state(paid, "COMPLETED")
    lab.wait_for_state(free, "RUNNING")


def test_the_jobs_of_a_node_that_dies_go_on_elsewhere(lab: Lab) -> None:
    moved = lab.submit("sleep 900", RTX, "--requeue")
    lost = lab.submit("sleep 900", RTX, "--no-requeue")
    for job in (moved, lost):
        lab.wait_for_state(job, "RUNNING")
    assert {lab.jobs()[job]["node"] for job in (moved, lost)} == {"g1"}
    lab.node_down("g1")
    lab.wait_for_state(lost, "NODE_FAIL")
    lab.wait_for_state(moved, "RUNNING")
    assert lab.jobs()[moved]["node"] == "g2"
    lab.node_up("g1")


def test_clearing_ends_whoever_still_submits(lab: Lab) -> None:
    submit = "while sbatch --account=gts-lab --output=/dev/null --wrap='sleep 900'; do :; done"
    client = subprocess.Popen(
        ["sh", "-c", submit], env=lab.environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    lab.wait_until(lab.jobs, what="job")
    lab.clear()
    assert client.wait() != 0
    assert lab.ask("squeue", "--noheader") == ""


def test_a_killed_session_leaves_nothing_behind() -> None:
    code = "from tests.slurm.lab import Lab; print(Lab.start().folder, flush=True); input()"
    session = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert session.stdout
    folder = Path(session.stdout.readline().strip())
    assert folder.parent == LABS
    assert len(processes_in(folder)) >= 7
    session.kill()
    session.wait()
    deadline = time.monotonic() + PATIENCE_S
    while processes_in(folder):
        assert time.monotonic() < deadline, processes_in(folder)
        time.sleep(0.1)
    clean_up_the_dead()
    assert not folder.exists()
