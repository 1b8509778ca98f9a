"""`fastdllm submit ARGUMENTS`: run `snakemake ARGUMENTS` in a small SLURM job.

So nothing has to stay alive on the log-in node. Account, GPU and a dry run of the command are
checked here first, so that mistakes show at once. The job requeues itself before its time limit and
resumes; cancelling it leaves the jobs that it submitted alone.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastdllm.cluster.choice import Choice

# Unknown arguments are passed on to Snakemake.
PASSES_ON = True
# Where the queue allows that much; the job resumes automatically after that.
HOURS = 8.0
MEMORY_MB = 4000
# How long before its time limit SLURM signals the job, which needs a second.
WARNING_S = 120


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "fastdllm submit [--hours H] [--account A] [--partition P] SNAKEMAKE-ARGUMENTS"
    parser.epilog = "Example: fastdllm submit --profile profiles/pace --config limit=20"
    parser.add_argument(
        "--hours",
        type=float,
        help=f"time limit of the job (default: {HOURS:g}, or what the queue gives)",
    )
    parser.add_argument("--account", help="who is charged (default: as for the other jobs)")
    parser.add_argument("--partition", help="partition (default: the site's for small jobs)")


def run(args: argparse.Namespace) -> int:
    from fastdllm.cluster.jobs import MAIN_COMMENT, MAIN_LOGS, live_jobs
    from fastdllm.cluster.slurm import SlurmError, own_jobs, submitted
    from fastdllm.cluster.submission import record_submission
    from fastdllm.common.errors import UserError

    if args.hours is not None and not args.hours * 3600 > 2 * WARNING_S:
        raise UserError(f"--hours {args.hours:g}: give the job at least 0.1 hours")
    try:
        choice = _choice(args)
        running = live_jobs(own_jobs(), Path.cwd()).get(MAIN_COMMENT)
        if running is not None:
            raise UserError(
                f"SLURM job {running.id} ({running.state.lower()}) runs the main process of this "
                f"folder already; look: tail -f {MAIN_LOGS / f'{running.id}.log'}; end it, but not "
                f"the jobs that it submitted: scancel {running.id}"
            )
        _refuse_beside_another()
        options = _resources(args, choice)
        code = _dry_run(args.passed_on)
        if code != 0:
            return code
        MAIN_LOGS.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "fastdllm.cluster.main_job", *args.passed_on]
        job_id = submitted(
            *("--requeue", "--open-mode=append"),
            *("--job-name=fastdllm-main", f"--comment={MAIN_COMMENT}"),
            *(f"--chdir={Path.cwd()}", f"--output={MAIN_LOGS}/%j.log"),
            *("--ntasks=1", "--cpus-per-task=1", f"--mem={MEMORY_MB}"),
            *(f"--signal=B:USR1@{WARNING_S}", *options),
            f"--wrap=exec {shlex.join(command)}",
        )
    except SlurmError as error:
        raise UserError(str(error)) from None
    hours = None if args.hours is None else f"{args.hours:g}"
    given = {"hours": hours, "account": args.account, "partition": args.partition}
    own = [f"--{name}={value}" for name, value in given.items() if value is not None]
    record_submission(job_id, [*own, *args.passed_on])
    sys.stdout.write(
        f"submitted SLURM job {job_id}: snakemake {shlex.join(args.passed_on)}\n"
        f"  log:   tail -f {MAIN_LOGS / f'{job_id}.log'}\n"
        f"  runs:  fastdllm status\n"
        f"  end:   scancel {job_id}   (the jobs that it submitted continue)\n"
    )
    return 0


def _refuse_beside_another() -> None:
    from fastdllm.common.errors import UserError
    from fastdllm.workflow.main_process import living_processes

    for process in living_processes():
        raise UserError(
            f"{process.words} works in this folder; wait for it, or end it there with `kill -KILL "
            f"{process.pid}` and submit again: its jobs continue and are adopted; only if it is "
            f"dead already ({process.look}): snakemake --unlock"
        )


def _choice(args: argparse.Namespace) -> Choice:
    """Return what the jobs of the workflow ask for.

    Raises:
        UserError: whatever would make them fail.
    """
    from fastdllm.common.errors import UserError
    from fastdllm.workflow.prepare import prepare
    from fastdllm.workflow.project.config_files import load_workflow_config
    from fastdllm.workflow.project.selection import Selection
    from fastdllm.workflow.targets import Targets

    targets = Targets.from_command_line(args.passed_on, "fastdllm submit")
    selection = Selection.from_options(targets.words)
    choice = prepare(
        load_workflow_config(),
        selection.cluster,
        args.passed_on,
        is_dry_run=False,
        folder=Path.cwd(),
        other_jobs=1,
        tasks=selection.tasks,
    )
    if choice is None:
        raise UserError(
            "no profile of a cluster in the command; write for example: "
            "fastdllm submit --profile profiles/pace"
        )
    return choice


def _resources(args: argparse.Namespace, choice: Choice) -> list[str]:
    """Return account, queue, partition and time limit of the main process as options of sbatch.

    Raises:
        UserError: more time than the queue gives, or a partition that is not there.
    """
    from fastdllm.cluster.checks import check_small_job
    from fastdllm.common.errors import UserError
    from fastdllm.workflow.prepare import limiter

    partition = args.partition or choice.cpu_partition
    if partition is not None:
        check_small_job(partition, choice.site)
    most = choice.max_minutes
    if args.hours is not None and most is not None and args.hours * 60 > most:
        raise UserError(
            f"--hours {args.hours:g}: {limiter(choice)} allows {most / 60:g}; ask for less: the "
            "job requeues itself before its time limit and resumes"
        )
    minutes = args.hours * 60 if args.hours is not None else min(HOURS * 60, most or HOURS * 60)
    options = {
        "account": args.account or choice.account,
        "partition": partition,
        "qos": choice.qos,
        "time": f"{minutes:.0f}",
    }
    return [f"--{name}={value}" for name, value in options.items() if value]


def _dry_run(arguments: Sequence[str]) -> int:
    """Print what is going to be made; Snakemake's list of jobs only after an error."""
    # The option first, as `--config` takes every word that follows.
    command = [sys.executable, "-m", "snakemake", "--dry-run", *arguments]
    completed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if completed.returncode != 0:
        sys.stderr.write(completed.stdout)
    return completed.returncode
