"""`python -m fastdllm.cluster.main_job ARGUMENTS`: Snakemake as a SLURM job, for `fastdllm submit`.

The jobs that it submits outlive it, and its next start adopts them. So it ends Snakemake with
SIGKILL, which leaves them running; an interrupt would cancel them. It does so on SIGUSR1, which
SLURM sends before the time limit, and then puts its own job back into the queue; and on SIGTERM,
sent by scancel and before a preemption, when SLURM decides whether there is a next start.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fastdllm.cluster.jobs import live_jobs
from fastdllm.cluster.slurm import SlurmError, own_jobs, requeue
from fastdllm.cluster.submission import forget_submission
from fastdllm.common.console import notice
from fastdllm.common.errors import RESUME_EXIT_CODE


def main(arguments: Sequence[str]) -> int:
    """Run `snakemake` with these arguments and return its exit code."""
    received: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def end(number: int, _frame: object) -> None:
        received.append(number)
        if child is not None:
            child.kill()

    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, end)
    child = subprocess.Popen([sys.executable, "-m", "snakemake", *arguments])
    if received:
        # The signal came while Snakemake was being started.
        child.kill()
    code = child.wait()
    if not received:
        if code == 0:
            forget_submission()
        return code
    if received[0] == signal.SIGUSR1:
        return _requeue(arguments)
    notice(f"ended by SIGTERM (scancel, or a preemption); {_others(arguments)}")
    return 128 + signal.SIGTERM


def _requeue(arguments: Sequence[str]) -> int:
    job_id = os.environ.get("SLURM_JOB_ID", "")
    notice(
        f"the time limit is near; job {job_id} goes back into the queue and adopts its jobs there"
    )
    try:
        requeue(job_id)
    except SlurmError as error:
        notice(f"SLURM refuses ({error}); {_others(arguments)}")
    return RESUME_EXIT_CODE


def _others(arguments: Sequence[str]) -> str:
    hint = f"`fastdllm submit {shlex.join(arguments)}` follows them again"
    try:
        live = live_jobs(own_jobs(), Path.cwd())
    except SlurmError:
        return f"the jobs of this folder continue; {hint}"
    of_rules = [job.id for comment, job in live.items() if comment.startswith("rule_")]
    ids = sorted(of_rules, key=lambda job_id: (len(job_id), job_id))
    if not ids:
        return "no job of this folder is left"
    return f"{len(ids)} jobs of this folder continue; {hint}, `scancel {' '.join(ids)}` ends them"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
