"""How a SLURM job ended, in words: out of memory, time limit, cancelled, node failure, ...

Told by the state in which squeue or sacct keeps it, by the last lines of its own log, and by the
run's journal, for a bare "failed" says nothing. Reads a few kB of the logs of runs that nobody is
working on; says too whether the same command goes on, or whether it would end the same way again.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from fastdllm.cluster.slurm import Accounted
from fastdllm.cluster.states import END_STATES
from fastdllm.common.errors import RESUME_EXIT_CODE, UserError
from fastdllm.common.files import read_json
from fastdllm.common.paths import LOGS
from fastdllm.runs.attempts import Attempt
from fastdllm.runs.shards import Shard, shard_log
from fastdllm.runs.stopping import TIME_LIMIT
from fastdllm.workflow.project.runs import Run
from fastdllm.workflow.status.queue import Queue, RunJob
from fastdllm.workflow.status.run_files import RunFiles

TAIL_BYTES = 4096
LONGEST_LINE = 200

# What slurmstepd and srun write into the log of a job, the telling one first: a job that ran out of
# memory is cancelled as well.
_LINES = (
    (r"oom.kill|out of memory|exceeded (?:job |step )?memory limit", "OUT_OF_MEMORY"),
    (r"DUE TO TIME LIMIT", "TIMEOUT"),
    (r"DUE TO PREEMPTION", "PREEMPTED"),
    (r"DUE TO NODE FAILURE", "NODE_FAIL"),
    (r"DUE TO DEADLINE", "DEADLINE"),
    (r"DUE TO JOB REQUEUE", "REQUEUED"),
    (r"CANCELLED AT (?!.*DUE TO)", "CANCELLED"),
)
_FROM_SLURM = re.compile(r"^(?:slurmstepd|srun)\b")
# The first words of Snakemake in a job: what stands before them is of an earlier start.
_START = "Building DAG of jobs"
# What the log of a pack says when it comes to a run.
_TURN = re.compile(r"run \d+ of \d+\b")
KILLED = "killed without a word (kill -9, or out of memory)"
STOPPED = {
    TIME_LIMIT: "stopped ahead of its time limit, and not queued again",
    "SIGTERM": "stopped by SIGTERM",
    "interrupted": "interrupted",
}
# What failed without an exit code was ended by a signal.
_EXIT_CODES = {0: KILLED, RESUME_EXIT_CODE: STOPPED["SIGTERM"]}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended.

    goes_on: the same command takes the run up again; otherwise it would fail once more.
    is_clear: whether the words say why; otherwise the accounts may know more.
    shard: the name of the shard that it was to make, such as 2-of-5.
    """

    words: str
    goes_on: bool
    job_id: str
    log: Path | None = None
    is_clear: bool = True
    shard: str | None = None

    def __str__(self) -> str:
        return self.words if self.shard is None else f"shard {self.shard}: {self.words}"


@dataclass(frozen=True, slots=True)
class EndedJob:
    """A job that is over. state: what squeue says of it; empty for one that it has forgotten.

    reason: squeue's, of a job that failed.
    is_without_node: it never ran, as far as is known.
    log: SLURM's, where there is one. own_log: of the command that it ran.
    pack: the id of the pack that it was to make, with other runs.
    """

    id: str
    state: str = ""
    reason: str = ""
    is_without_node: bool = False
    log: Path | None = None
    own_log: Path | None = None
    pack: str | None = None


def ending_of(job: EndedJob, attempts: Sequence[Attempt]) -> Ending | None:
    """How a job ended; None where nothing says that it ended badly.

    Args:
        attempts: the journal of the run.
    """
    if job.state == "COMPLETED":
        return None
    log = job.log if job.log is not None and job.log.is_file() else None
    lines = [] if log is None else _last_lines(log)
    written = _state_of(lines)
    # One that ran out of memory may count as cancelled; of the rest squeue has the last word.
    told = job.state if job.state in END_STATES and written != "OUT_OF_MEMORY" else written
    if told in END_STATES:
        words, goes_on = END_STATES[told].words, END_STATES[told].resumes
        if told == "CANCELLED" and job.is_without_node:
            words += " while it waited"
        return Ending(words, goes_on, job.id, log, is_clear=told != "REQUEUED")
    last = next((a for a in reversed(attempts) if a.slurm_job == job.id), None)
    if last is not None and last.why in STOPPED:
        return Ending(STOPPED[last.why], True, job.id, log)
    if not job.state and not lines:
        return None
    if last is not None and not last.why:
        return Ending(KILLED, True, job.id, log, is_clear=False)
    return _by_exit(job, log, lines, is_begun=last is not None)


def accounted_ending(ending: Ending, job: Accounted) -> Ending:
    """The same ending as the accounts tell it, where they say more."""
    if job.state in END_STATES:
        end = END_STATES[job.state]
        return replace(ending, words=end.words, goes_on=end.resumes, is_clear=True)
    if job.state == "FAILED" and job.exit_code in _EXIT_CODES:
        words = _EXIT_CODES[job.exit_code]
        return replace(ending, words=words, goes_on=True, is_clear=True)
    return ending


def _by_exit(
    job: EndedJob, log: Path | None, lines: Sequence[str], *, is_begun: bool
) -> Ending | None:
    """Of a job that failed by itself, before or without a word of the eval."""
    from_slurm = [line for line in lines if _FROM_SLURM.match(line)]
    is_killed = any(re.search(r": Killed$|\bsignal 9\b", line) for line in from_slurm)
    if is_killed or (job.reason == "JobLaunchFailure" and not lines):
        return Ending(KILLED, True, job.id, log, is_clear=False)
    if not job.state and not from_slurm:
        return None
    own = job.own_log if job.own_log is not None and job.own_log.is_file() else log
    said = [] if own is None else _last_lines(own)
    last = _shortened(next(iter(reversed(said)), "no message"))
    if job.pack is not None and not is_begun:
        if any(_TURN.match(line) for line in said):
            return Ending("its pack ended before its turn", True, job.id, own, is_clear=False)
        return Ending(f"its pack failed: {last}", False, job.id, own, is_clear=False)
    return Ending(f"failed: {last}", False, job.id, own, is_clear=False)


def _state_of(lines: Sequence[str]) -> str | None:
    own = [line for line in lines if _FROM_SLURM.match(line)]
    for pattern, state in _LINES:
        if any(re.search(pattern, line, flags=re.IGNORECASE) for line in own):
            return state
    return None


def _last_lines(path: Path) -> list[str]:
    """The lines at the end of a log that are not empty, from the last start of the job on."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - TAIL_BYTES))
            text = stream.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    starts = [index for index, line in enumerate(lines) if line.startswith(_START)]
    return lines[starts[-1] :] if starts else lines


def _shortened(line: str) -> str:
    return line if len(line) <= LONGEST_LINE else line[: LONGEST_LINE - 1] + "…"


# Which SLURM job was the last to work on a run, and how that ended. The newest of those that squeue
# still knows and of those that left a log counts, unless it worked on other settings, or another
# process worked on the run since (logs of jobs that ended well are gone).


def last_ending(files: RunFiles, queue: Queue) -> Ending | None:
    """How the last job of a run ended, which nobody is working on; None where nothing says.

    Of a run that is cut it is a shard that ended for a reason of its own, else the newest.
    """
    settled_s = _settled_s(files.run)
    if queue.problem or settled_s is None:
        # Without squeue: it may have gone back into the queue, which its log does not tell.
        return None
    attempts = files.attempts()
    found: dict[str | None, Ending] = {}
    for shard, job in _ended_jobs(files, queue):
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


def _ended_jobs(files: RunFiles, queue: Queue) -> Iterator[tuple[str | None, EndedJob]]:
    """The last jobs of a run: of the whole, None, and of each shard that is not done, by name."""
    run = files.run
    ended = [job for job in queue.of(run) if not job.is_live]
    whole = _last([job for job in ended if job.shard is None], queue.logs_of(run))
    if whole is not None:
        of_pack = None if whole.pack is None else LOGS / "pack" / f"{whole.pack}.log"
        yield None, replace(whole, own_log=of_pack or run.log_path)
    done = {part.shard for part in files.shards if part.is_done}
    of = files.of or 0
    for shard in [Shard(index, of) for index in range(1, of + 1)]:
        own = [job for job in ended if job.shard == shard]
        last = None if shard in done else _last(own, queue.logs_of(run, shard))
        if last is not None:
            yield str(shard), replace(last, own_log=shard_log(run.log_path, shard))


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
