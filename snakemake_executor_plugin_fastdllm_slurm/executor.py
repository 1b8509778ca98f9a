"""The executor: follows its jobs, without the defects of the SLURM plugin (docs/upstream.md).

fastdllm.cluster.jobs finds out how a job ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface
from snakemake_interface_executor_plugins.logging import LoggerExecutorInterface
from snakemake_interface_executor_plugins.workflow import WorkflowExecutorInterface

from fastdllm.cluster.jobs import CLOCKS_S, GONE, JobFollower, end_in_words
from fastdllm.cluster.slurm import Job, JobState, SlurmError, ask, own_jobs
from fastdllm.common.errors import UserError
from fastdllm.runs.attempts import read_attempts
from fastdllm.runs.packs import members_path, read_members, report_path
from fastdllm.runs.progress import mistake_of_job
from fastdllm.runs.stopping import TIME_LIMIT
from snakemake_executor_plugin_fastdllm_slurm.submission import SubmittingExecutor

# How soon the thread that looks at the queue notices the end of the workflow.
END_POLL_S = 0.25
# However often Snakemake is told to look: each look is a call of SLURM's controller.
LEAST_POLL_S = 1.0
# Ends for which the node is to blame.
NODE_FAULTS = ("NODE_FAIL", "BOOT_FAIL")


class Executor(SubmittingExecutor):
    """Submits jobs to SLURM, or adopts those of an earlier Snakemake, and follows them."""

    def __init__(
        self, workflow: WorkflowExecutorInterface, logger: LoggerExecutorInterface
    ) -> None:
        self._follower = JobFollower()
        self._adopted_ending: set[str] = set()
        self._names: dict[str, str] = {}
        self._nodes: dict[str, str] = {}
        super().__init__(workflow, logger)

    def _adopt(self, job: JobExecutorInterface, earlier: Job) -> None:
        self._follower.adopt(earlier, time.monotonic())
        self._names[earlier.id] = earlier.name
        if earlier.state == "COMPLETING":
            self._adopted_ending.add(earlier.id)
        super()._adopt(job, earlier)

    # The queue, in the parent's thread for it.

    async def check_active_jobs(
        self, active_jobs: Sequence[SubmittedJobInfo]
    ) -> AsyncGenerator[SubmittedJobInfo, None]:
        """Report the jobs that have ended to Snakemake; yield the others."""
        if not active_jobs:
            return
        try:
            listed = {job.id: job for job in own_jobs()}
        except SlurmError as error:
            self._notices.outage(str(error), retry_s=self._poll_s)
            for info in active_jobs:
                yield info
            return
        self._notices.recovery()
        followed = []
        for info in active_jobs:
            if self._is_lost(info, listed):
                await self._end(info, JobState(str(info.external_jobid), GONE))
            else:
                followed.append(info)
        ids = [str(info.external_jobid) for info in followed]
        queue = [listed[job_id] for job_id in ids if job_id in listed]
        self._nodes |= {job.id: job.node for job in queue if job.node}
        # A job that came back into the queue is from now on one like those of this call.
        self._adopted_ending -= {
            job.id for job in queue if job.is_live and job.state != "COMPLETING"
        }
        ends = self._follower.ended(ids, queue, time.monotonic())
        for line in self._follower.notices(ids, queue):
            self.logger.warning(line)
        for info in followed:
            end = ends.get(str(info.external_jobid))
            if end is None:
                yield info
            else:
                await self._end(info, end)

    def _is_lost(self, info: SubmittedJobInfo, listed: Mapping[str, Job]) -> bool:
        """Whether SLURM knows another job by this id: a controller that lost its state, and ours.

        sacct then knows that one as well, so that the marks on the output have to do.
        """
        job = listed.get(str(info.external_jobid))
        return job is not None and not self._is_for(info.job, job)

    async def _end(self, info: SubmittedJobInfo, end: JobState) -> None:
        self._ended.add(end.id)
        if self._followed.get(end.id) is info:
            del self._followed[end.id]
        log, how = Path(info.aux["slurm_logfile"]), f"SLURM job {end.id}: {end_in_words(end)}"
        outputs = [Path(output) for output in info.job.output]
        is_done = end.state == "COMPLETED"
        if end.state == GONE:
            is_done = await self._is_made(info.job)
        if is_done:
            self.report_job_success(info)
            if not self.workflow.executor_settings.keep_successful_logs:
                log.unlink(missing_ok=True)
        elif end.id in self._adopted_ending:
            # It was about to end when this call began: it neither failed nor was cancelled here.
            self._submit_again(info.job)
        elif was_only_stopped(end, outputs):
            # Where SLURM itself puts such a job back into the queue, that costs no attempt either.
            self.logger.warning(f"{how}; another job continues it")
            self._submit_again(info.job)
        else:
            message = f"{how}. "
            mistake = mistake_in(end, outputs, since=self._since[end.id])
            if end.state == "CANCELLED" or mistake is not None:
                # A person wanted that, or has to do something first: no attempts are left.
                info.job.attempt = info.job.restart_times + 1
                reason = f" ({mistake})" if mistake is not None else ""
                message = f"{how}{reason}; this call does not submit it again. "
            elif end.state in NODE_FAULTS and (node := self._nodes.get(end.id)):
                # The parent leaves these out of what it submits from now on.
                self._failed_nodes.add(node)
            self.report_job_error(info, msg=message, aux_logs=[str(log)])

    def _submit_again(self, job: JobExecutorInterface) -> None:
        """Submit a job again without using up one of its attempts."""
        if not self._is_stopping.is_set():
            self._job_submission_executor.submit(self.run_job, job)

    async def _is_made(self, job: JobExecutorInterface) -> bool:
        """Whether the job's own Snakemake on the compute node ended well.

        It then removes the mark "incomplete" from the output, which is newer than its input; a job
        that never began leaves an earlier result without the mark. In doubt, no: a run that is
        complete ends in seconds when it is submitted again.
        """
        persistence: Any = self.workflow.persistence
        persistence.deactivate_cache()
        inputs = [Path(file) for file in job.input if Path(file).exists()]
        newest_ns = max((path.stat().st_mtime_ns for path in inputs), default=0)
        outputs = [Path(output) for output in job.output]
        is_new = all(o.exists() and o.stat().st_mtime_ns >= newest_ns for o in outputs)
        return is_new and not await persistence.incomplete(job)

    @property
    def _poll_s(self) -> float:
        """Seconds between two looks at the queue: Snakemake's option, which is 10 by default."""
        wished_s = self.workflow.remote_execution_settings.seconds_between_status_checks
        return max(LEAST_POLL_S, wished_s)

    async def sleep(self) -> None:
        """Wait until it is time to look at the queue again, or for the end of the workflow."""
        due_s = time.monotonic() + self._poll_s
        while self.wait and time.monotonic() < due_s:
            await asyncio.sleep(END_POLL_S)

    # The end.

    def cancel(self) -> None:
        """Cancel all jobs of this call, adopted ones included, and submit no more."""
        self._stop_submitting()
        super().cancel()

    def cancel_jobs(self, active_jobs: Sequence[SubmittedJobInfo]) -> None:
        """Cancel all jobs that are followed; `active_jobs` is empty during a look at the queue.

        By the names of their calls, which no other job bears, whatever became of their ids. So are
        jobs whose sbatch was interrupted before it printed their id.
        """
        adopted: dict[str, list[str]] = {}
        for job_id in self._followed.keys() & self._names.keys():
            adopted.setdefault(self._names[job_id], []).append(job_id)
        for name, ids in [(self.run_uuid, []), *adopted.items()]:
            try:
                ask("scancel", f"--name={name}", *sorted(ids))
            except SlurmError as error:
                self.logger.warning(
                    f"{error}; jobs may still wait or run: `squeue --me --name={name}` shows them, "
                    f"`scancel --name={name}` cancels them"
                )
        self._followed.clear()

    def shutdown(self) -> None:
        """End the threads; jobs are left running only when something went wrong here."""
        self._stop_submitting()
        super().shutdown()
        if self._followed:
            # Those jobs wait for this folder when they start, and the parent has removed it.
            Path(self.tmpdir).mkdir(exist_ok=True)


def was_only_stopped(end: JobState, outputs: Sequence[Path]) -> bool:
    """Whether a job was preempted, or stopped itself cleanly ahead of its time limit.

    A job that would be stopped forever without finishing a chunk fails instead. A job that a
    person cancelled stays cancelled, whatever its journal says: it may have waited in the queue
    again after a time limit.

    Args:
        outputs: of the job, relative to the project; they name the runs, or the shard, whose
            journals count.
    """
    if end.state != "FAILED":
        return end.state == "PREEMPTED"
    for output in outputs:
        for folder, shard in _journals(output):
            attempts = [a for a in read_attempts(folder) if a.slurm_job == end.id]
            of_shard = [attempt for attempt in attempts if attempt.shard == shard]
            if of_shard and of_shard[-1].why == TIME_LIMIT:
                return True
    return False


def mistake_in(end: JobState, outputs: Sequence[Path], *, since: datetime) -> str | None:
    """Return the mistake of a user that a job met, which another job would meet as well.

    Args:
        outputs: as for `was_only_stopped`.
        since: when the job began to be followed; earlier ones of its id were others.
    """
    earliest = since - timedelta(seconds=CLOCKS_S)
    for output in outputs if end.state == "FAILED" else ():
        for folder, shard in _journals(output):
            failure = "failed.json" if shard is None else f"shards/{shard}.failed.json"
            mistake = mistake_of_job(folder / failure, end.id, earliest=earliest)
            if mistake is not None:
                return mistake
    return None


def _journals(output: Path) -> Iterator[tuple[Path, str | None]]:
    """Yield the folders of the runs that a job makes, with the name of the shard if it is one."""
    if output.parent.name == "shards":
        yield output.parents[1], output.stem
        return
    pack = output.parent.name
    if output != report_path(pack):
        yield output.parent, None
        return
    try:
        specs = read_members(members_path(pack))
    except UserError:
        return  # the job itself reports what is wrong with it
    for spec in specs:
        yield spec.parent, None
