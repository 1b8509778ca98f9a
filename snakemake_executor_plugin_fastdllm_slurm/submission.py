"""The first half of the executor: submits a job, or adopts the one of an earlier call.

Runs in two threads, so what it reports about outages of SLURM is reported once, under a lock.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_slurm import Executor as SlurmExecutor
from snakemake_executor_plugin_slurm.utils import get_job_wildcards
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface
from snakemake_interface_executor_plugins.logging import LoggerExecutorInterface
from snakemake_interface_executor_plugins.workflow import WorkflowExecutorInterface

import fastdllm.cluster
from fastdllm.cluster.jobs import comment_of, live_jobs
from fastdllm.cluster.slurm import Job, SlurmError, own_jobs

BIN = Path(fastdllm.cluster.__file__).parent / "bin"
# Submissions within so many seconds share one answer of squeue.
SNAPSHOT_S = 5.0
RETRY_S = 10.0
# A controller that restarts or is too busy comes back; a submission is given up after this long.
PATIENCE_S = 600.0
_TEMPORARY = re.compile(
    "Unable to contact|Socket timed out|Connection (refused|reset|timed out)|Zero Bytes|"
    "temporarily|Transport endpoint",
    re.IGNORECASE,
)
# Limits of QOS and account that end with other jobs. The sentence after the reason speaks of a
# "job submit limit" whatever the reason is.
_FULL = re.compile("(Max|Grp)SubmitJob")


class SubmittingExecutor(SlurmExecutor):
    """Submits jobs to SLURM, or adopts those of an earlier Snakemake."""

    def __init__(
        self, workflow: WorkflowExecutorInterface, logger: LoggerExecutorInterface
    ) -> None:
        for command in ("sbatch", "squeue"):
            if shutil.which(command) is None:
                raise WorkflowError(
                    f"{command}: no such command here; start snakemake on a log-in node of the "
                    "cluster, or with another --profile"
                )
        keep_slurm_conf()
        # Set before the parent's __init__, which starts the thread that looks at the queue.
        self._followed: dict[str, SubmittedJobInfo] = {}
        self._since: dict[str, datetime] = {}
        self._ended: set[str] = set()
        self._refusals: dict[JobExecutorInterface, str] = {}
        self._notices = Notices(logger)
        self._is_stopping = threading.Event()
        super().__init__(workflow, QuietLogger(logger))

    def run_job(self, job: JobExecutorInterface) -> None:
        """Submit a job, unless one of an earlier call already makes the same."""
        try:
            self._submit_or_adopt(job)
        except Exception as error:
            # Nobody reads this thread's result, and a lost job would be waited for without end.
            self.logger.error(f"submission of {job.name} failed", exc_info=True)
            self.report_job_error(SubmittedJobInfo(job), msg=f"submission failed: {error!r}. ")

    def _submit_or_adopt(self, job: JobExecutorInterface) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while (queue := self._queue()) is not None:
            earlier = self._earlier(job, queue)
            if earlier is not None:
                self._adopt(job, earlier)
                return
            super().run_job(job)
            refusal = self._refusals.pop(job, None)
            if refusal is None:
                return
            is_full = _FULL.search(refusal) is not None
            if is_full and (self._followed or any(other.is_live for other in queue)):
                deadline_s = time.monotonic() + PATIENCE_S
                until = "as soon as the queue takes another job of yours"
            elif (is_full or _TEMPORARY.search(refusal)) and time.monotonic() < deadline_s:
                until = f"for {PATIENCE_S / 60:.0f} minutes"
            else:
                self.report_job_error(SubmittedJobInfo(job), msg=f"{refusal} ")
                return
            self._notices.delay(refusal, until=until)
            self._is_stopping.wait(RETRY_S)

    def _queue(self) -> list[Job] | None:
        """Return this user's jobs, once squeue answers; None once nothing more may be submitted."""
        while not self._is_stopping.is_set():
            try:
                jobs = own_jobs(max_age_s=SNAPSHOT_S)
            except SlurmError as error:
                self._notices.outage(str(error), retry_s=RETRY_S)
                self._is_stopping.wait(RETRY_S)
            else:
                self._notices.recovery()
                return None if self._is_stopping.is_set() else jobs
        return None

    def _earlier(self, job: JobExecutorInterface, queue: Iterable[Job]) -> Job | None:
        """Return the job of another call that waits or runs for the same output."""
        comment, of_this_call = _comment(job), self._ended.union(self._followed)
        same = (o for o in queue if o.comment == comment and o.id not in of_this_call)
        return live_jobs(same, Path(self.workflow.workdir_init)).get(comment)

    def _is_for(self, job: JobExecutorInterface, slurm_job: Job) -> bool:
        """Whether a job of SLURM makes what a job of Snakemake does, whatever their ids say."""
        is_here = slurm_job.is_in(Path(self.workflow.workdir_init))
        return is_here and slurm_job.comment == _comment(job)

    def _adopt(self, job: JobExecutorInterface, earlier: Job) -> None:
        self.logger.info(
            f"SLURM job {earlier.id} of an earlier snakemake continues; not submitted again"
        )
        log = self.slurm_logdir / f"rule_{job.name}" / get_job_wildcards(job) / f"{earlier.id}.log"
        info = SubmittedJobInfo(job, external_jobid=earlier.id, aux={"slurm_logfile": log})
        self.report_job_submission(info)

    def report_job_submission(self, job_info: SubmittedJobInfo, register_job: bool = True) -> None:
        """Start to follow a job."""
        if job_info.external_jobid is not None:
            self._followed[job_info.external_jobid] = job_info
            self._since[job_info.external_jobid] = datetime.now(UTC)
        super().report_job_submission(job_info, register_job=register_job)

    def get_account_arg(self, job: JobExecutorInterface) -> Iterator[str]:
        """Yield sbatch's option for the account, which was checked before the call began.

        The parent asks the accounting database again for each job; it may be down by then.
        """
        account = job.resources.get("slurm_account")
        yield f" -A {shlex.quote(str(account))}" if account else ""

    def _report_job_error_threadsafe(self, job_info: SubmittedJobInfo, msg: str) -> None:
        """Keep the message; the parent's run_job calls this and returns nothing."""
        # Without the command, which is thousands of characters; --verbose shows it.
        self._refusals[job_info.job] = " ".join(msg.partition("\n    sbatch call:")[0].split())

    def _stop_submitting(self) -> None:
        self._is_stopping.set()
        self._job_submission_executor.shutdown(wait=True, cancel_futures=True)


def _comment(job: JobExecutorInterface) -> str:
    wildcards = get_job_wildcards(job)
    return comment_of(job.name, [wildcards] if wildcards else [])


def keep_slurm_conf() -> None:
    """Keep SLURM_CONF for the jobs and the job steps in them.

    Inside a SLURM job the parent drops all SLURM_* variables, so that options of that job do not
    become those of the jobs it submits; this drops the others first, so that it has no reason to.
    In the jobs, Snakemake's jobstep plugin drops it again for srun; the wrapper in `BIN` restores
    it.
    """
    if "SLURM_JOB_ID" in os.environ:
        for name in list(os.environ):
            if name.startswith("SLURM_") and name != "SLURM_CONF":
                del os.environ[name]
    conf = os.environ.get("SLURM_CONF")
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    if conf and str(BIN) not in folders:
        os.environ["FASTDLLM_SLURM_CONF"] = conf
        os.environ["PATH"] = os.pathsep.join([str(BIN), *folders])


class QuietLogger:
    """Snakemake's logger, without the parent's warning about jobs that set no --mem.

    The profiles set --mem-per-gpu, in `slurm_extra`, which the parent does not read.
    """

    def __init__(self, logger: LoggerExecutorInterface) -> None:
        self._logger = logger

    def warning(self, message: str, *args: object, **options: Any) -> None:
        """Log a warning, unless it is that one."""
        if not message.startswith("No job memory information"):
            self._logger.warning(message, *args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logger, name)


class Notices:
    """Reports outages of SLURM and refused submissions, each once, from any thread."""

    def __init__(self, logger: LoggerExecutorInterface) -> None:
        self._logger = logger
        self._lock = threading.Lock()
        self._is_out = False
        self._delays: set[str] = set()

    def outage(self, error: str, *, retry_s: float) -> None:
        """Report that SLURM does not answer."""
        with self._lock:
            if not self._is_out:
                self._logger.warning(f"{error}; jobs continue, trying again every {retry_s:.0f} s")
            self._is_out = True

    def recovery(self) -> None:
        """Report that SLURM answers again, after an outage."""
        with self._lock:
            if self._is_out:
                self._logger.warning("SLURM answers again")
            self._is_out = False

    def delay(self, refusal: str, *, until: str) -> None:
        """Report that a submission was refused and is tried again."""
        with self._lock:
            if refusal not in self._delays:
                self._logger.warning(f"{refusal} It is tried again {until}")
            self._delays.add(refusal)
