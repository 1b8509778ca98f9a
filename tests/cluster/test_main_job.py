"""Snakemake as a SLURM job, and SLURM's signals; a process that waits stands in for Snakemake."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastdllm.cluster.slurm import Job
from fastdllm.cluster.submission import RECORD
from tests.support.fakes import squeue_output
from tests.support.run_project import PATIENCE_S

ROOT = Path(__file__).parents[2]
SNAKEMAKE = """\
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: print("graceful", flush=True))
if "--fail" in sys.argv or "--done" in sys.argv:
    sys.exit(3 if "--fail" in sys.argv else 0)
print("snakemake", os.getpid(), *sys.argv[1:], flush=True)
while True:
    time.sleep(60)
"""
Start = Callable[..., "subprocess.Popen[str]"]


def script(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\necho {name} $* >> {folder}/calls\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the main job."""
    (tmp_path / "fake/snakemake").mkdir(parents=True)
    (tmp_path / "fake/snakemake/__init__.py").touch()
    (tmp_path / "fake/snakemake/__main__.py").write_text(SNAKEMAKE)
    jobs = [
        Job(number, "RUNNING", comment=comment, work_dir=str(tmp_path))
        for number, comment in (("5", "fastdllm_main"), ("12", "rule_a"), ("7", "rule_b"))
    ]
    (tmp_path / "queue").write_text(squeue_output(*jobs))
    script(tmp_path / "bin", "squeue", f"cat {tmp_path}/queue")
    script(tmp_path / "bin", "scontrol", "")
    started = []

    def start_one(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "fastdllm.cluster.main_job", *arguments],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": f"{tmp_path / 'fake'}{os.pathsep}{ROOT}",
                "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
                "XDG_CACHE_HOME": str(tmp_path / "cache"),
                "SLURM_JOB_ID": "5",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.kill()


def begun(process: subprocess.Popen[str]) -> int:
    """The process id of Snakemake, once it runs."""
    assert process.stdout is not None
    name, pid, *arguments = process.stdout.readline().split()
    assert (name, arguments) == ("snakemake", ["--profile", "p"])
    return int(pid)


def is_dead(pid: int) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.slow
def test_before_the_time_limit_the_job_goes_back_into_the_queue(
    start: Start, tmp_path: Path
) -> None:
    process = start("--profile", "p")
    pid = begun(process)
    process.send_signal(signal.SIGUSR1)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 75
    assert is_dead(pid)
    assert "graceful" not in out, "an interrupt would cancel the jobs"
    assert (tmp_path / "bin/calls").read_text() == "scontrol requeue 5\n"
    notice = "fastdllm: the time limit is near; job 5 goes back into the queue and adopts its jobs"
    assert err.startswith(notice)


@pytest.mark.slow
def test_a_refused_requeue_says_how_to_go_on(start: Start, tmp_path: Path) -> None:
    script(tmp_path / "bin", "scontrol", "echo Requested operation is disabled >&2; exit 1")
    process = start("--profile", "p")
    begun(process)
    process.send_signal(signal.SIGUSR1)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 75
    assert "SLURM refuses (scontrol: Requested operation is disabled); 2 jobs of this folder" in err
    assert "`fastdllm submit --profile p` follows them again" in err


@pytest.mark.slow
def test_cancelled_it_leaves_its_jobs_alone_and_says_so(start: Start, tmp_path: Path) -> None:
    process = start("--profile", "p")
    pid = begun(process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + signal.SIGTERM
    assert is_dead(pid)
    assert "ended by SIGTERM (scancel, or a preemption); 2 jobs of this folder continue" in err
    assert "`scancel 7 12` ends them" in err
    assert "scancel" not in (tmp_path / "bin/calls").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("option", "code"), [("--fail", 3), ("--done", 0)])
def test_the_exit_code_is_that_of_snakemake(
    start: Start, tmp_path: Path, option: str, code: int
) -> None:
    record = tmp_path / RECORD
    record.parent.mkdir(parents=True)
    record.touch()
    process = start(option)
    assert process.wait(timeout=PATIENCE_S) == code
    assert record.exists() is (code != 0), "status tells how one ended that did not end well"


@pytest.mark.slow
def test_a_signal_while_snakemake_is_being_started_ends_it(start: Start, tmp_path: Path) -> None:
    # Read by Python at its start: SIGTERM comes within the call that starts Snakemake.
    (tmp_path / "fake/sitecustomize.py").write_text(
        "import signal, subprocess, sys\n"
        "class Popen(subprocess.Popen):\n"
        "    def __init__(self, *args, **kwargs):\n"
        "        super().__init__(*args, **kwargs)\n"
        "        if args[0][2] == 'snakemake':\n"
        "            signal.raise_signal(signal.SIGTERM)\n"
        "subprocess.Popen = Popen\n"
    )
    process = start("--profile", "p")
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + signal.SIGTERM
    assert err.startswith("fastdllm: ended by SIGTERM"), err
