"""Which SLURM job was the last to work on a run, and how that ended.

The newest of those that squeue still knows and of those that left a log counts, unless it worked on
other settings, or another process worked on the run since (logs of jobs that ended well are gone).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from fastdllm.common.errors import UserError
from fastdllm.common.files import read_json
from fastdllm.common.paths import LOGS
from fastdllm.runs.attempts import Attempt
from fastdllm.workflow.endings import EndedJob, Ending, ending_of
from fastdllm.workflow.queue import Queue, RunJob
from fastdllm.workflow.runs import Run
from fastdllm.workflow.traces import Traces


def last_ending(traces: Traces, queue: Queue) -> Ending | None:
    """How the last job of a run ended, which nobody is working on; None where nothing says.

    Of a run that is cut it is a shard that ended for a reason of its own, else the newest.
    """
    settled_s = _settled_s(traces.run)
    if queue.problem or settled_s is None:
        # Without squeue: it may have gone back into the queue, which its log does not tell.
        return None
    attempts = traces.attempts()
    found: dict[str | None, Ending] = {}
    for shard, job in _ended_jobs(traces, queue):
        own = [attempt for attempt in attempts if attempt.shard == shard]
        since_s = max([settled_s, *(_began_s(attempt) for attempt in own[-1:])])
        ending = ending_of(job, own)
        if ending is not None and (job.log is None or _date_s(job.log) >= since_s):
            found[shard] = replace(ending, shard=shard)
    newest = max(found, key=lambda shard: _order(found[shard].job_id), default=None)
    if newest is not None:
        # The run was cut after any job that made it in one piece.
        found.pop(None, None)
        newest = max(found, key=lambda s: (not found[s].goes_on, _order(found[s].job_id)))
    return found.get(newest)


def _ended_jobs(traces: Traces, queue: Queue) -> Iterator[tuple[str | None, EndedJob]]:
    """The last jobs of a run: of the whole, None, and of each shard that is not done, by name."""
    run = traces.run
    ended = [job for job in queue.of(run) if not job.is_live]
    whole = _last([job for job in ended if job.shard is None], queue.logs_of(run))
    if whole is not None:
        of_pack = None if whole.pack is None else LOGS / "pack" / f"{whole.pack}.log"
        yield None, replace(whole, own_log=of_pack or run.log_path)
    done = {part.shard for part in traces.shards if part.is_done}
    of = traces.of or 0
    for shard in [(index, of) for index in range(1, of + 1) if index not in done]:
        own = [job for job in ended if job.shard == shard]
        last = _last(own, queue.logs_of(run, shard))
        name = f"{shard[0]}-of-{of}"
        if last is not None:
            own_log = run.log_path.with_suffix(".shards") / f"{name}.log"
            yield name, replace(last, own_log=own_log)


def _last(ended: Sequence[RunJob], folders: Sequence[Path]) -> EndedJob | None:
    """The newest of the jobs that squeue still knows, and of those that left a log."""
    found = [
        EndedJob(log.stem, log=log, pack=folder.name if folder.parent.name == "rule_pack" else None)
        for folder in folders
        for log in _logs(folder)
    ]
    for job in ended:
        log = next((other.log for other in found if other.id == job.job.id), None)
        told = EndedJob(job.job.id, job.job.state, job.job.reason, not job.job.node, log)
        found.append(replace(told, pack=job.pack))
    return max(found, key=lambda job: (_order(job.id), job.state), default=None)


def _settled_s(run: Run) -> float | None:
    """When the settings of a run were written down; a job that ended before had others.

    None when its spec holds other settings, so that no job can have been its own.
    """
    try:
        spec = read_json(run.spec_path)
    except UserError:
        return None
    is_own = isinstance(spec, dict) and spec.get("fingerprint") == run.fingerprint
    return _date_s(run.spec_path) if is_own else None


def _began_s(attempt: Attempt) -> float:
    try:
        return datetime.fromisoformat(attempt.time).timestamp()
    except ValueError:
        return -math.inf


def _order(job_id: str) -> tuple[int, str]:
    """Longer ids are newer."""
    return len(job_id), job_id


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
