"""How the last SLURM job of a run ended: out of memory, time limit, cancelled, node failure, ...

The newest job counts, of those that squeue still knows and of those that left a log, unless it
worked on other settings, or another process worked on the run since (logs of jobs that ended well
are removed). How it ended follows from its state in squeue or sacct, from the last lines of its own
log, and from the run's journal, since a bare "failed" says nothing. Reads a few kB of the logs of
runs that no process is working on.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from fastdllm.cluster.jobs import CLOCKS_S
from fastdllm.cluster.slurm import JobState
from fastdllm.cluster.states import END_STATES
from fastdllm.common.errors import RESUME_EXIT_CODE
from fastdllm.common.files import json_object
from fastdllm.common.paths import LOGS
from fastdllm.runs.attempts import Attempt
from fastdllm.runs.shards import Shard, shard_log
from fastdllm.runs.stopping import TIME_LIMIT
from fastdllm.workflow.project.runs import Run
from fastdllm.workflow.status.queue import Queue, RunJob
from fastdllm.workflow.status.run_files import RunFiles

TAIL_BYTES = 8192
LONGEST_LINE = 200

# What slurmstepd and srun write into the log of a job, causes first: a job that ran out of memory
# is cancelled as well.
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
# What srun writes of any command that failed, and the last words of any Snakemake that did.
_BARE = re.compile(r"Exited with exit code \d+$|^WorkflowError:$|^At least one job did not ")
# What they write of a command that was killed.
_KILLED = re.compile(
    r"^(?:slurmstepd|srun)\b.*(?:: Killed$|\bsignal 9\b)|died with <Signals.SIGKILL"
)
# The last words of a command that a signal stopped before its attempt at the run began.
_STOPPED = re.compile(r"fastdllm: (stopped by SIG\w+(?: \(time limit ahead\))?)")
# The first words of Snakemake in a job; the lines before them are of an earlier start.
_START = "Building DAG of jobs"
# What a pack writes into its log when it begins a run.
_TURN = re.compile(r"run \d+ of \d+\b")
KILLED = "killed (kill -9, or out of memory)"
STOPPED = {
    TIME_LIMIT: "stopped ahead of its time limit, and not queued again",
    "SIGTERM": "stopped by SIGTERM",
    "interrupted": "interrupted",
}
# A job that failed with exit code 0 was ended by a signal.
_EXIT_CODES = {0: KILLED, RESUME_EXIT_CODE: STOPPED["SIGTERM"]}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended.

    resumes: whether the same command resumes the run; otherwise it would fail again.
    is_clear: whether the words say why; otherwise the accounting database may know more.
    shard: the name of the shard that it was to make, such as 2-of-5.
    """

    words: str
    resumes: bool
    job_id: str
    log: Path | None = None
    is_clear: bool = True
    shard: str | None = None

    def __str__(self) -> str:
        return self.words if self.shard is None else f"shard {self.shard}: {self.words}"


@dataclass(frozen=True, slots=True)
class EndedJob:
    """A job that has ended. state: in squeue; empty for a job that squeue no longer knows.

    reason: squeue's, of a job that failed.
    is_without_node: it never ran, as far as is known. start, restarts: of its last start, if
        squeue says so.
    log: SLURM's, where there is one. own_log: of the command that it ran.
    pack: the id of the pack that it was to make, with other runs.
    """

    id: str
    state: str = ""
    reason: str = ""
    is_without_node: bool = False
    start: str | None = None
    restarts: int | None = None
    log: Path | None = None
    own_log: Path | None = None
    pack: str | None = None


def last_ending(files: RunFiles, queue: Queue) -> Ending | None:
    """Return how the last job of a run that is not at work ended, None if not recorded.

    Of a split run it is a shard that would fail again, else the newest.
    """
    specified_s = _specified_s(files.run)
    if queue.problem or specified_s is None:
        # Without squeue: it may be in the queue again, which its log does not show.
        return None
    attempts = files.attempts()
    endings: dict[str | None, Ending] = {}
    for shard, job in _ended_jobs(files, queue):
        shard_attempts = [attempt for attempt in attempts if attempt.shard == shard]
        since_s = max([specified_s, *(_moment_s(attempt.time) for attempt in shard_attempts[-1:])])
        ending = ending_of(job, shard_attempts)
        if ending is not None and (job.log is None or _date_s(job.log) >= since_s):
            endings[shard] = replace(ending, shard=shard)
    newest = max(endings, key=lambda shard: _order(endings[shard].job_id), default=None)
    if newest is not None:
        # The run was split after any job that made it in one piece.
        endings.pop(None, None)
        newest = max(endings, key=lambda s: (not endings[s].resumes, _order(endings[s].job_id)))
    return endings.get(newest)


def _ended_jobs(files: RunFiles, queue: Queue) -> Iterator[tuple[str | None, EndedJob]]:
    """Yield the last job of the whole run, as None, and of each shard that is not done, by name."""
    run = files.run
    ended = [job for job in queue.of(run) if not job.job.is_live]
    run_job = _last([job for job in ended if job.shard is None], queue.logs_of(run))
    if run_job is not None:
        of_pack = None if run_job.pack is None else LOGS / "pack" / f"{run_job.pack}.log"
        yield None, replace(run_job, own_log=of_pack or run.log_path)
    done = {part.shard for part in files.shards if part.is_done}
    of = files.of or 0
    for shard in [Shard(index, of) for index in range(1, of + 1)]:
        shard_jobs = [job for job in ended if job.shard == shard]
        last = None if shard in done else _last(shard_jobs, queue.logs_of(run, shard))
        if last is not None:
            yield str(shard), replace(last, own_log=shard_log(run.log_path, shard))


def _last(ended: Sequence[RunJob], folders: Sequence[Path]) -> EndedJob | None:
    """Return the newest of the jobs that squeue still knows and of those that left a log."""
    jobs = [
        EndedJob(log.stem, log=log, pack=folder.name if folder.parent.name == "rule_pack" else None)
        for folder in folders
        for log in _logs(folder)
    ]
    for job in ended:
        log = next((other.log for other in jobs if other.id == job.job.id), None)
        ended_job = EndedJob(job.job.id, job.job.state, job.job.reason, not job.job.node, log=log)
        last_start = replace(ended_job, start=job.job.start, restarts=job.job.restarts)
        jobs.append(replace(last_start, pack=job.pack))
    return max(jobs, key=_recency, default=None)


def _recency(job: EndedJob) -> tuple[bool, float, tuple[int, str]]:
    """Return a sort key: squeue forgets jobs, and a controller that lost its state their ids."""
    date_s = -math.inf if job.state or job.log is None else _date_s(job.log)
    return job.state != "", date_s, _order(job.id)


def _specified_s(run: Run) -> float | None:
    """Return when the settings of a run were written; a job that ended before had others.

    None if its spec holds other settings, so that no job can have been its own.
    """
    is_own = json_object(run.spec_path).get("fingerprint") == run.fingerprint
    return _date_s(run.spec_path) if is_own else None


def ending_of(job: EndedJob, attempts: Sequence[Attempt]) -> Ending | None:
    """Return how a job ended, None if nothing shows that it ended badly.

    Args:
        attempts: the journal of the run.
    """
    if job.state == "COMPLETED":
        return None
    log = job.log if job.log is not None and job.log.is_file() else None
    lines = [] if log is None else _last_lines(log)
    written = _state_of(lines)
    # One that ran out of memory may count as cancelled; otherwise squeue decides.
    state = job.state if job.state in END_STATES and written != "OUT_OF_MEMORY" else written
    if state in END_STATES:
        words, resumes = END_STATES[state].words, END_STATES[state].resumes
        if state == "CANCELLED" and job.is_without_node:
            words += " while it waited"
        return Ending(words, resumes, job.id, log, is_clear=state != "REQUEUED")
    last = next((attempt for attempt in reversed(attempts) if _is_by(attempt, job)), None)
    if last is not None and last.why in STOPPED:
        return Ending(STOPPED[last.why], True, job.id, log)
    if last is not None and not last.why and (job.state or lines):
        return Ending(KILLED, True, job.id, log, is_clear=False)
    return _by_exit(job, log, lines, attempts)


def accounted_ending(ending: Ending, job: JobState) -> Ending:
    """Return the ending as the accounting database has it, where that says more."""
    if job.state in END_STATES:
        end = END_STATES[job.state]
        return replace(ending, words=end.words, resumes=end.resumes, is_clear=True)
    if job.state == "FAILED" and job.exit_code in _EXIT_CODES:
        words = _EXIT_CODES[job.exit_code]
        return replace(ending, words=words, resumes=True, is_clear=True)
    return ending


def _by_exit(
    job: EndedJob, log: Path | None, lines: Sequence[str], attempts: Sequence[Attempt]
) -> Ending | None:
    """Return how a job ended by its logs: it failed, or its eval wrote nothing about its end."""
    from_slurm = _of_slurm(lines)
    is_killed = any(_KILLED.search(line) for line in lines)
    if is_killed or (job.reason == "JobLaunchFailure" and not lines):
        return Ending(KILLED, True, job.id, log, is_clear=False)
    is_begun = any(_is_by(attempt, job) for attempt in attempts)
    if not job.state and not from_slurm:
        # Without it the end of an earlier attempt would be taken for that of this job.
        ended_before = Ending("ended before its eval began", True, job.id, log, is_clear=False)
        return ended_before if attempts and not is_begun and log is not None else None
    own_log = job.own_log if is_begun or _is_own(job, attempts) else None
    own_lines = [] if own_log is None else _last_lines(own_log)
    if not own_lines:
        own_log, own_lines = log, [_telling(lines)] if lines else []
    last = _shortened(own_lines[-1] if own_lines else "its logs say nothing")
    if job.pack is not None and not is_begun:
        if any(_TURN.match(line) for line in own_lines):
            return Ending("its pack ended before its turn", True, job.id, own_log, is_clear=False)
        return Ending(f"its pack failed: {last}", False, job.id, own_log, is_clear=False)
    if not is_begun and (stopped := _STOPPED.match(last)):
        return Ending(f"{stopped[1]} before it began", True, job.id, own_log)
    return Ending(f"failed: {last}", False, job.id, own_log, is_clear=False)


def _is_by(attempt: Attempt, job: EndedJob) -> bool:
    """Whether an attempt was made in the last start of a job; ids may be given anew."""
    is_same = attempt.slurm_job == job.id and job.restarts in (None, attempt.restart)
    return is_same and _moment_s(attempt.time) + CLOCKS_S >= _started_s(job)


def _is_own(job: EndedJob, attempts: Sequence[Attempt]) -> bool:
    """Whether a job without an attempt wrote the log of its command, not an earlier one."""
    if job.own_log is None:
        return False
    others_s = max((_moment_s(attempt.ended) for attempt in attempts), default=-math.inf)
    return _date_s(job.own_log) > (_started_s(job) if job.start is not None else others_s)


def _started_s(job: EndedJob) -> float:
    """Return when the last start of a job was; any time is later where squeue does not know."""
    return -math.inf if job.start is None else datetime.fromisoformat(job.start).timestamp()


def _telling(lines: Sequence[str]) -> str:
    """Return the line of SLURM's log that says most: SLURM's last error, else the last one."""
    errors = [line for line in _of_slurm(lines) if re.search(r"\b(?:error|fatal)\b", line)]
    found = errors or lines
    return next((line for line in reversed(found) if not _BARE.search(line)), found[-1])


def _of_slurm(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if _FROM_SLURM.match(line)]


def _state_of(lines: Sequence[str]) -> str | None:
    for pattern, state in _LINES:
        if any(re.search(pattern, line, flags=re.IGNORECASE) for line in _of_slurm(lines)):
            return state
    return None


def _last_lines(path: Path) -> list[str]:
    """Return the last non-empty lines of a log, from the last start of the job on."""
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


def _moment_s(moment: str | None) -> float:
    try:
        return datetime.fromisoformat(moment or "").timestamp()
    except ValueError:
        return -math.inf


def _order(job_id: str) -> tuple[int, str]:
    """Return a sort key: longer ids are newer."""
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
