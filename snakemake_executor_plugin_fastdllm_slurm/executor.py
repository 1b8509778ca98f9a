"""The executor: what it does differently from Snakemake's SLURM plugin, version 2.8.0.

There a job that was cancelled, or preempted for good, counts as running for ever; after a restart
each job is submitted a second time; up to three minutes lie between two looks at the queue; jobs
that wait for submission are still submitted after an interrupt; and inside a SLURM job SLURM_CONF
is lost. What became of a job is told by fastdllm.cluster.following.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import threading
import time
from collections.abc import AsyncGenerator, Sequence
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
from fastdllm.cluster.following import GONE, Ending, Following
from fastdllm.cluster.jobs import comment_of, live_jobs
from fastdllm.cluster.slurm import Job, SlurmError, own_jobs

# Less than what is promised from the end of a job to the next step, 15 s; squeue takes some 10 ms.
POLL_S = 10.0
# How soon the thread that looks at the queue notices the end of the workflow.
END_POLL_S = 0.25
# For the submissions of so many seconds squeue is asked once.
SNAPSHOT_S = 5.0
# A controller that restarts or is too busy comes back; a submission is given up after this long.
SUBMIT_PATIENCE_S = 600.0
_PASSES = re.compile(
    "Unable to contact|Socket timed out|Connection (refused|reset|timed out)|Zero Bytes|"
    "temporarily|Transport endpoint|MaxSubmitJob|submit limit",
    re.IGNORECASE,
)
BIN = Path(fastdllm.cluster.__file__).parent / "bin"


class Executor(SlurmExecutor):
    """Submits jobs to SLURM, or adopts those of an earlier Snakemake, and follows them."""

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
        self._following = Following()
        self._followed: dict[str, SubmittedJobInfo] = {}
        self._ended: set[str] = set()
        self._adopted_at_the_end: set[str] = set()
        self._refusals: dict[JobExecutorInterface, str] = {}
        self._delays: set[str] = set()
        self._is_out = False
        self._telling = threading.Lock()
        self._is_stopping = threading.Event()
        super().__init__(workflow, Logger(logger))

    # Submission, in the parent's two threads for it.

    def run_job(self, job: JobExecutorInterface) -> None:
        """Submit a job, unless one of an earlier Snakemake makes the same."""
        try:
            self._submit_or_adopt(job)
        except Exception as error:
            # Nobody reads the result of this thread, and a job that is lost is waited for for ever.
            self.logger.error(f"submission of {job.name} failed", exc_info=True)
            self.report_job_error(SubmittedJobInfo(job), msg=f"submission failed: {error!r}. ")

    def _submit_or_adopt(self, job: JobExecutorInterface) -> None:
        deadline_s = time.monotonic() + SUBMIT_PATIENCE_S
        while not self._is_stopping.is_set():
            earlier = self._earlier(job)
            if earlier is not None:
                self._adopt(job, earlier)
                return
            if self._is_stopping.is_set():
                return
            super().run_job(job)
            refusal = self._refusals.pop(job, None)
            if refusal is None:
                return
            if not _PASSES.search(refusal) or time.monotonic() > deadline_s:
                self.report_job_error(SubmittedJobInfo(job), msg=f"{refusal} ")
                return
            self._tell_delay(refusal)
            self._is_stopping.wait(POLL_S)

    def _earlier(self, job: JobExecutorInterface) -> Job | None:
        """The job of another call that waits or runs for the same output."""
        wildcards = get_job_wildcards(job)
        comment = comment_of(job.name, [wildcards] if wildcards else [])
        while not self._is_stopping.is_set():
            try:
                jobs = own_jobs(max_age_s=SNAPSHOT_S)
            except SlurmError as error:
                self._tell_outage(str(error))
                self._is_stopping.wait(POLL_S)
                continue
            self._tell_recovery()
            own = self._ended.union(self._followed)
            others = (other for other in jobs if other.id not in own)
            return live_jobs(others, Path(self.workflow.workdir_init)).get(comment)
        return None

    def _adopt(self, job: JobExecutorInterface, earlier: Job) -> None:
        self.logger.info(
            f"SLURM job {earlier.id} of an earlier snakemake goes on; not submitted again"
        )
        self._following.adopt(earlier, time.monotonic())
        if earlier.state == "COMPLETING":
            self._adopted_at_the_end.add(earlier.id)
        log = self.slurm_logdir / f"rule_{job.name}" / get_job_wildcards(job) / f"{earlier.id}.log"
        info = SubmittedJobInfo(job, external_jobid=earlier.id, aux={"slurm_logfile": log})
        self.report_job_submission(info)

    def report_job_submission(self, job_info: SubmittedJobInfo, register_job: bool = True) -> None:
        """Begin to follow a job."""
        if job_info.external_jobid is not None:
            self._followed[job_info.external_jobid] = job_info
        super().report_job_submission(job_info, register_job=register_job)

    def _report_job_error_threadsafe(self, job_info: SubmittedJobInfo, msg: str) -> None:
        """Called by the parent's run_job, which says nothing to its caller."""
        # Without the command, which is thousands of characters; --verbose shows it.
        self._refusals[job_info.job] = " ".join(msg.partition("\n    sbatch call:")[0].split())

    # The queue, in the parent's thread for it.

    async def check_active_jobs(
        self, active_jobs: Sequence[SubmittedJobInfo]
    ) -> AsyncGenerator[SubmittedJobInfo, None]:
        """Tell Snakemake of the jobs that have ended; yields the others."""
        if not active_jobs:
            return
        try:
            queue = own_jobs()
        except SlurmError as error:
            self._tell_outage(str(error))
            for info in active_jobs:
                yield info
            return
        self._tell_recovery()
        ids = [str(info.external_jobid) for info in active_jobs]
        endings = self._following.endings(ids, queue, time.monotonic())
        for line in self._following.notices(ids, queue):
            self.logger.warning(line)
        for info in active_jobs:
            ending = endings.get(str(info.external_jobid))
            if ending is None:
                yield info
            else:
                await self._end(info, ending)

    async def _end(self, info: SubmittedJobInfo, ending: Ending) -> None:
        self._ended.add(ending.job_id)
        self._followed.pop(ending.job_id, None)
        log = Path(info.aux["slurm_logfile"])
        is_done = ending.state == "COMPLETED"
        if ending.state == GONE:
            is_done = await self._is_made(info.job)
        if is_done:
            self.report_job_success(info)
            if not self.workflow.executor_settings.keep_successful_logs:
                log.unlink(missing_ok=True)
        elif ending.job_id in self._adopted_at_the_end:
            # It was about to end when this call began, so nobody saw it fail or cancelled it here.
            self._job_submission_executor.submit(self.run_job, info.job)
        else:
            message = f"SLURM job {ending.job_id} {ending.words}. "
            if ending.state == "CANCELLED":
                # A person's will: no attempts are left.
                info.job.attempt = info.job.restart_times + 1
                message = f"{message.rstrip('. ')}; this call does not submit it again. "
            self.report_job_error(info, msg=message, aux_logs=[str(log)])

    async def _is_made(self, job: JobExecutorInterface) -> bool:
        """Whether the job's own Snakemake on the compute node ended well.

        It then takes the mark off the output that says "incomplete". If in doubt, no: a run that
        is complete ends in seconds when it is submitted again.
        """
        persistence: Any = self.workflow.persistence
        persistence.deactivate_cache()
        is_there = all(Path(output).exists() for output in job.output)
        return is_there and not await persistence.incomplete(job)

    async def sleep(self) -> None:
        """Wait until it is time to look at the queue again, or for the end of the workflow."""
        due_s = time.monotonic() + POLL_S
        while self.wait and time.monotonic() < due_s:
            await asyncio.sleep(END_POLL_S)

    # Outages, told once by whichever thread meets them.

    def _tell_outage(self, error: str) -> None:
        with self._telling:
            if not self._is_out:
                self.logger.warning(
                    f"{error}; jobs go on meanwhile, trying again every {POLL_S:.0f} s"
                )
            self._is_out = True

    def _tell_delay(self, refusal: str) -> None:
        with self._telling:
            if refusal not in self._delays:
                minutes = SUBMIT_PATIENCE_S / 60
                self.logger.warning(f"{refusal} It is tried again for {minutes:.0f} minutes")
            self._delays.add(refusal)

    def _tell_recovery(self) -> None:
        with self._telling:
            if self._is_out:
                self.logger.warning("SLURM answers again")
            self._is_out = False

    # The end.

    def cancel(self) -> None:
        """Cancel all jobs of this call, adopted ones included, and submit no more."""
        self._stop_submitting()
        super().cancel()

    def cancel_jobs(self, active_jobs: Sequence[SubmittedJobInfo]) -> None:
        """Cancel all jobs that are followed; `active_jobs` is empty during a look at the queue."""
        super().cancel_jobs(list(self._followed.values()))
        self._followed.clear()

    def shutdown(self) -> None:
        """End the threads; jobs are left only when something went wrong here."""
        self._stop_submitting()
        super().shutdown()
        if self._followed:
            # They wait for this folder when they start, and the parent has removed it.
            Path(self.tmpdir).mkdir(exist_ok=True)

    def _stop_submitting(self) -> None:
        self._is_stopping.set()
        self._job_submission_executor.shutdown(wait=True, cancel_futures=True)


class Logger:
    """Snakemake's logger, without the parent's warning of jobs that ask for no memory by --mem.

    The profiles ask for it with --mem-per-gpu, in `slurm_extra`, which the parent does not read.
    """

    def __init__(self, logger: LoggerExecutorInterface) -> None:
        self._logger = logger

    def warning(self, message: str, *args: object, **options: Any) -> None:
        """Pass a warning on, unless it is that one."""
        if not message.startswith("No job memory information"):
            self._logger.warning(message, *args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logger, name)


def keep_slurm_conf() -> None:
    """Let SLURM_CONF reach the jobs, and the job steps in them.

    In a SLURM job the parent drops all SLURM_* variables, so that options of that job do not become
    those of the jobs it submits; this leaves it nothing to drop. In the jobs Snakemake's jobstep
    plugin drops it once more, for srun; the wrapper in `BIN` brings it back.
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
