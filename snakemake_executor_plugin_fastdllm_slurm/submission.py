"""The first half of the executor: a job is submitted, or an earlier one adopted; in two threads."""

from __future__ import annotations

import re
import shlex
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from snakemake_executor_plugin_slurm import Executor as SlurmExecutor
from snakemake_executor_plugin_slurm.utils import get_job_wildcards
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface
from snakemake_interface_executor_plugins.logging import LoggerExecutorInterface
from snakemake_interface_executor_plugins.workflow import WorkflowExecutorInterface

from fastdllm.cluster.jobs import comment_of, live_jobs
from fastdllm.cluster.slurm import Job, SlurmError, own_jobs
from snakemake_executor_plugin_fastdllm_slurm.slurm_conf import keep_slurm_conf
from snakemake_executor_plugin_fastdllm_slurm.telling import Logger, Telling

# For the submissions of so many seconds squeue is asked once.
SNAPSHOT_S = 5.0
RETRY_S = 10.0
# A controller that restarts or is too busy comes back; a submission is given up after this long.
PATIENCE_S = 600.0
_PASSES = re.compile(
    "Unable to contact|Socket timed out|Connection (refused|reset|timed out)|Zero Bytes|"
    "temporarily|Transport endpoint",
    re.IGNORECASE,
)
# The reasons of which an end of other jobs is the cure, of QOS and account. The sentence that
# follows speaks of a "job submit limit" whatever the reason is.
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
        # All before the parent's: that one starts the thread that looks at the queue.
        self._followed: dict[str, SubmittedJobInfo] = {}
        self._ended: set[str] = set()
        self._refusals: dict[JobExecutorInterface, str] = {}
        self._tell = Telling(logger)
        self._is_stopping = threading.Event()
        super().__init__(workflow, Logger(logger))

    def run_job(self, job: JobExecutorInterface) -> None:
        """Submit a job, unless one of an earlier Snakemake makes the same."""
        try:
            self._submit_or_adopt(job)
        except Exception as error:
            # Nobody reads the result of this thread, and a job that is lost is waited for for ever.
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
            elif (is_full or _PASSES.search(refusal)) and time.monotonic() < deadline_s:
                until = f"for {PATIENCE_S / 60:.0f} minutes"
            else:
                self.report_job_error(SubmittedJobInfo(job), msg=f"{refusal} ")
                return
            self._tell.delay(refusal, until=until)
            self._is_stopping.wait(RETRY_S)

    def _queue(self) -> list[Job] | None:
        """This user's jobs, once squeue answers; None: nothing is to be submitted any more."""
        while not self._is_stopping.is_set():
            try:
                jobs = own_jobs(max_age_s=SNAPSHOT_S)
            except SlurmError as error:
                self._tell.outage(str(error), retry_s=RETRY_S)
                self._is_stopping.wait(RETRY_S)
            else:
                self._tell.recovery()
                return None if self._is_stopping.is_set() else jobs
        return None

    def _earlier(self, job: JobExecutorInterface, queue: Iterable[Job]) -> Job | None:
        """The job of another call that waits or runs for the same output."""
        wildcards = get_job_wildcards(job)
        comment = comment_of(job.name, [wildcards] if wildcards else [])
        own = self._ended.union(self._followed)
        others = (other for other in queue if other.id not in own)
        return live_jobs(others, Path(self.workflow.workdir_init)).get(comment)

    def _adopt(self, job: JobExecutorInterface, earlier: Job) -> None:
        self.logger.info(
            f"SLURM job {earlier.id} of an earlier snakemake goes on; not submitted again"
        )
        log = self.slurm_logdir / f"rule_{job.name}" / get_job_wildcards(job) / f"{earlier.id}.log"
        info = SubmittedJobInfo(job, external_jobid=earlier.id, aux={"slurm_logfile": log})
        self.report_job_submission(info)

    def report_job_submission(self, job_info: SubmittedJobInfo, register_job: bool = True) -> None:
        """Begin to follow a job."""
        if job_info.external_jobid is not None:
            self._followed[job_info.external_jobid] = job_info
        super().report_job_submission(job_info, register_job=register_job)

    def get_account_arg(self, job: JobExecutorInterface) -> Iterator[str]:
        """The option of sbatch for the account, which was checked before the call began.

        The parent asks the accounting database again for each job, which may be away by then.
        """
        account = job.resources.get("slurm_account")
        yield f" -A {shlex.quote(str(account))}" if account else ""

    def _report_job_error_threadsafe(self, job_info: SubmittedJobInfo, msg: str) -> None:
        """Called by the parent's run_job, which says nothing to its caller."""
        # Without the command, which is thousands of characters; --verbose shows it.
        self._refusals[job_info.job] = " ".join(msg.partition("\n    sbatch call:")[0].split())

    def _stop_submitting(self) -> None:
        self._is_stopping.set()
        self._job_submission_executor.shutdown(wait=True, cancel_futures=True)
