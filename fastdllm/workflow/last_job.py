"""Which SLURM job was the last to work on a run, and how that ended.

The newest of those that squeue still knows and of those that left a log counts, unless it worked on
other settings, or a person decoded the run by hand since.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from fastdllm.errors import UserError
from fastdllm.evaluation.attempts import Attempt
from fastdllm.files import read_json
from fastdllm.workflow.endings import EndedJob, Ending, ending_of
from fastdllm.workflow.queue import Queue, RunJob
from fastdllm.workflow.runs import Run
from fastdllm.workflow.traces import Traces


def last_ending(traces: Traces, queue: Queue) -> Ending | None:
    """How the last job of a run ended, which nobody is working on; None where nothing says.

    Of a run that is cut it is a shard that ended for a reason of its own, else the first that did.
    """
    if queue.problem:
        # It may have gone back into the queue, which its log does not tell.
        return None
    attempts = traces.attempts()
    since_s = _since_s(traces.run, attempts)
    if since_s is None:
        return None
    found = [
        replace(ending, words=f"{where}{ending.words}")
        for where, job in _ended_jobs(traces, queue)
        if job.log is None or _date_s(job.log) >= since_s
        if (ending := ending_of(job, attempts)) is not None
    ]
    return next((ending for ending in found if not ending.goes_on), next(iter(found), None))


def _ended_jobs(traces: Traces, queue: Queue) -> Iterator[tuple[str, EndedJob]]:
    """The last jobs of a run, one for each shard that is not done, and what they were to make."""
    run = traces.run
    ended = [job for job in queue.of(run) if not job.is_live]
    whole = _last([job for job in ended if job.shard is None], queue.logs_of(run))
    if whole is not None:
        yield "", replace(whole, own_log=run.log_path)
    if traces.of is None:
        return
    done = {part.shard for part in traces.shards if part.is_done}
    for index in range(1, traces.of + 1):
        if index not in done:
            shard = index, traces.of
            own = [job for job in ended if job.shard == shard]
            last = _last(own, queue.logs_of(run, shard))
            name = f"{index}-of-{traces.of}"
            if last is not None:
                own_log = run.log_path.with_suffix(".shards") / f"{name}.log"
                yield f"shard {name}: ", replace(last, own_log=own_log)


def _last(ended: Sequence[RunJob], folders: Sequence[Path]) -> EndedJob | None:
    """The newest of the jobs that squeue still knows, and of those that left a log."""
    found = [EndedJob(log.stem, log=log) for folder in folders for log in _logs(folder)]
    for job in ended:
        log = next((other.log for other in found if other.id == job.job.id), None)
        found.append(EndedJob(job.job.id, job.job.state, job.job.reason, not job.job.node, log))
    return max(found, key=lambda job: (len(job.id), job.id, job.state), default=None)


def _since_s(run: Run, attempts: Sequence[Attempt]) -> float | None:
    """Jobs that ended before this are of other settings, or a person's own eval came after them.

    None when the spec of the run holds other settings, so that no job can have been its own.
    """
    try:
        spec = read_json(run.spec_path)
    except UserError:
        return None
    if not isinstance(spec, dict) or spec.get("fingerprint") != run.fingerprint:
        return None
    since_s = _date_s(run.spec_path)
    if attempts and attempts[-1].slurm_job is None:
        with suppress(ValueError):
            since_s = max(since_s, datetime.fromisoformat(attempts[-1].time).timestamp())
    return since_s


def _date_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return -math.inf


def _logs(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if re.fullmatch(r"\d+(?:_\d+)?\.log", path.name)]
    except OSError:
        return []
