"""The object that `fastdllm status --json` prints.

schema_version  1
totals          runs, and the number of runs in each state
to_make         gpu_jobs, runs, copies: jobs that the next call has to submit, the runs that they
                decode, and the runs that are made from another's result
next_command    what to type next
alarms          results that contradict each other
notices         by task, what is odd about its items or the model and was not refused
main_processes  of each that lives, or of the last that was submitted and did not end well: life
                (alive, dead, unknown), words, command, log
slurm           null outside SLURM; else problem: why squeue did not answer, or ""
speeds          of each measurement: name (experiment/task), state (done, unpublished, stale,
                missing), sittings: how many there are
runs            of each: experiment, task, config, limit, state, folder, log, fingerprint, and,
                where there is something to say:
  reason          why it is in that state, in one line
  truncated       true where too many answers of its result ended at their budget
  same_as         the run whose result it is made from
  changes         key, old, new: what makes its result stale
  earlier_settings  key, old, new: what was edited after its job or its process was given them
  progress        items_done, items_total, items_of_other_code (stored, but not to be used),
                  tokens_per_s, time_left_s, state, ...
  jobs            its SLURM jobs that wait or run: id, rule (eval, shard, pack), shard ([I, N]),
                  pack, state, reason (as squeue says them), node, start (local time; expected,
                  of a job that waits; null if a person has to release it), time_left_s, restarts
  shards          of, at_work, queued, done, failed: numbers of shards
  ending          words, job, log: how its last SLURM job ended
  goes_on         true where the same command resumes what failed or was interrupted
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fastdllm.commands.status_main import Main
from fastdllm.workflow.project.artifacts import origin_of
from fastdllm.workflow.project.config_files import WorkflowConfig
from fastdllm.workflow.speed_states import SpeedStatus
from fastdllm.workflow.splitting import JobSplit, split_into_jobs
from fastdllm.workflow.status.queue import Queue, RunJob
from fastdllm.workflow.status.run_status import Change, RunStatus, State


def as_record(
    statuses: Sequence[RunStatus],
    next_command: str,
    alarms: Sequence[str],
    *,
    mains: Sequence[Main] = (),
    queue: Queue | None = None,
    config: WorkflowConfig | None = None,
    notices: Mapping[str, Sequence[str]] | None = None,
    speeds: Sequence[SpeedStatus] = (),
) -> dict[str, Any]:
    """Return the object that --json prints."""
    counts = Counter(status.state for status in statuses)
    return {
        "schema_version": 1,
        "totals": {"runs": len(statuses), **{str(state): counts[state] for state in State}},
        "to_make": asdict(to_make(statuses, config)),
        "next_command": next_command,
        "alarms": list(alarms),
        "notices": {task: list(lines) for task, lines in (notices or {}).items()},
        "main_processes": [_main_record(main) for main in mains],
        "slurm": None if queue is None else {"problem": queue.problem},
        "speeds": [
            {"name": s.measurement.name, "state": str(s.state), "sittings": s.sittings}
            for s in speeds
        ],
        "runs": [_run_record(status) for status in statuses],
    }


def _main_record(main: Main) -> dict[str, Any]:
    log = None if main.log is None else str(main.log)
    life = main.life.name.lower()
    return {"life": life, "words": main.words, "command": main.command, "log": log}


@dataclass(frozen=True, slots=True)
class ToMake:
    """What is left to do besides what is queued or running."""

    gpu_jobs: int
    runs: int
    copies: int


def to_make(statuses: Sequence[RunStatus], config: WorkflowConfig | None = None) -> ToMake:
    """Return what the next call has to do.

    Args:
        config: how runs are split into jobs; by default each has its own.
    """
    made = [s for s in statuses if s.is_to_be_made and not s.is_adopted]
    decoded = [status for status in made if status.leader is None]
    split = JobSplit() if config is None else split_into_jobs(decoded, config)
    jobs = split.jobs(status.run for status in decoded)
    return ToMake(jobs, len(decoded), len(made) - len(decoded))


def _run_record(status: RunStatus) -> dict[str, Any]:
    run = status.run
    record: dict[str, Any] = {
        "experiment": run.experiment,
        "task": run.task,
        "config": run.config,
        "limit": run.limit,
        "state": str(status.state),
        "folder": str(run.folder),
        "log": str(run.log_path),
        "fingerprint": run.fingerprint,
    }
    if status.reason:
        record["reason"] = status.reason
    if status.is_truncated:
        record["truncated"] = True
    if same_as := _same_as(status):
        record["same_as"] = same_as
    if status.changes:
        record["changes"] = [_change_record(change) for change in status.changes]
    if status.earlier:
        record["earlier_settings"] = [_change_record(change) for change in status.earlier]
    if status.progress is not None:
        record["progress"] = dict(status.progress)
    if status.jobs:
        record["jobs"] = [_job_record(job) for job in status.jobs]
    if status.shards is not None:
        record["shards"] = asdict(status.shards)
    if status.ending is not None:
        ending = status.ending
        log = None if ending.log is None else str(ending.log)
        record["ending"] = {"words": str(ending), "job": ending.job_id, "log": log}
    if status.resumes:
        record["goes_on"] = True
    return record


def _change_record(change: Change) -> dict[str, Any]:
    return {"key": change.key, "old": change.old, "new": change.new}


def _job_record(run_job: RunJob) -> dict[str, Any]:
    job = run_job.job
    return {
        "id": job.id,
        "rule": run_job.rule,
        "shard": None if run_job.shard is None else [run_job.shard.index, run_job.shard.count],
        "pack": run_job.pack,
        "state": job.state,
        "reason": job.reason,
        "node": job.node,
        "start": run_job.start,
        "time_left_s": job.time_left_s,
        "restarts": job.restarts,
    }


def _same_as(status: RunStatus) -> str | None:
    """Return the run that this one is copied from, None if it is decoded."""
    if status.leader is not None and status.is_to_be_made:
        return status.leader.name
    return origin_of(status.record, status.run)
