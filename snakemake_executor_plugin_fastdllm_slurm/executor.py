"""The executor: what it does differently from Snakemake's SLURM plugin, version 2.8.0.

There a job that was cancelled, or preempted for good, counts as running for ever; after a restart
each job is submitted a second time; up to three minutes lie between two looks at the queue; jobs
that wait for submission are still submitted after an interrupt; and inside a SLURM job SLURM_CONF
is lost. What became of a job is told by fastdllm.cluster.following.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface
from snakemake_interface_executor_plugins.logging import LoggerExecutorInterface
from snakemake_interface_executor_plugins.workflow import WorkflowExecutorInterface

from fastdllm.cluster.following import GONE, Ending, Following
from fastdllm.cluster.slurm import Job, SlurmError, ask, own_jobs
from snakemake_executor_plugin_fastdllm_slurm.stopped import was_only_stopped
from snakemake_executor_plugin_fastdllm_slurm.submission import SubmittingExecutor

# Less than what is promised from the end of a job to the next step, 15 s; squeue takes some 10 ms.
POLL_S = 10.0
# How soon the thread that looks at the queue notices the end of the workflow.
END_POLL_S = 0.25


class Executor(SubmittingExecutor):
    """Submits jobs to SLURM, or adopts those of an earlier Snakemake, and follows them."""

    def __init__(
        self, workflow: WorkflowExecutorInterface, logger: LoggerExecutorInterface
    ) -> None:
        self._following = Following()
        self._adopted_at_the_end: set[str] = set()
        super().__init__(workflow, logger)

    def _adopt(self, job: JobExecutorInterface, earlier: Job) -> None:
        self._following.adopt(earlier, time.monotonic())
        if earlier.state == "COMPLETING":
            self._adopted_at_the_end.add(earlier.id)
        super()._adopt(job, earlier)

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
            self._tell.outage(str(error), retry_s=POLL_S)
            for info in active_jobs:
                yield info
            return
        self._tell.recovery()
        # One that came back from its end was seen by this call, which tells how it ends.
        self._adopted_at_the_end -= {
            job.id for job in queue if job.is_live and job.state != "COMPLETING"
        }
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
            self._submit_again(info.job)
        elif was_only_stopped(ending, [Path(output) for output in info.job.output]):
            # A cluster that puts it back into the queue by itself asks nobody either.
            self.logger.warning(f"SLURM job {ending.job_id} {ending.words}; it goes on in another")
            self._submit_again(info.job)
        else:
            message = f"SLURM job {ending.job_id} {ending.words}. "
            if ending.state == "CANCELLED":
                # A person's will: no attempts are left.
                info.job.attempt = info.job.restart_times + 1
                message = f"{message.rstrip('. ')}; this call does not submit it again. "
            self.report_job_error(info, msg=message, aux_logs=[str(log)])

    def _submit_again(self, job: JobExecutorInterface) -> None:
        """Submit a job anew that costs it none of its attempts."""
        if not self._is_stopping.is_set():
            self._job_submission_executor.submit(self.run_job, job)

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

    # The end.

    def cancel(self) -> None:
        """Cancel all jobs of this call, adopted ones included, and submit no more."""
        self._stop_submitting()
        super().cancel()

    def cancel_jobs(self, active_jobs: Sequence[SubmittedJobInfo]) -> None:
        """Cancel all jobs that are followed; `active_jobs` is empty during a look at the queue."""
        super().cancel_jobs(list(self._followed.values()))
        self._cancel_unheard()
        self._followed.clear()

    def _cancel_unheard(self) -> None:
        """Cancel jobs whose sbatch was interrupted after it submitted them: nobody has their id."""
        try:
            unheard = [
                job.id
                for job in own_jobs()
                if job.is_live and job.name == self.run_uuid and job.id not in self._followed
            ]
            if unheard:
                ask("scancel", *unheard)
        except SlurmError as error:
            self.logger.warning(
                f"{error}; a job that was on its way to SLURM may go on: `squeue --me "
                f"--name={self.run_uuid}` shows it, `scancel --name={self.run_uuid}` ends it"
            )

    def shutdown(self) -> None:
        """End the threads; jobs are left only when something went wrong here."""
        self._stop_submitting()
        super().shutdown()
        if self._followed:
            # They wait for this folder when they start, and the parent has removed it.
            Path(self.tmpdir).mkdir(exist_ok=True)
