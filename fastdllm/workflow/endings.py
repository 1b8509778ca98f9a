"""How a SLURM job ended, in words: out of memory, time limit, cancelled, node failure, ...

Told by the state in which squeue or sacct keeps it, by the last lines of its own log, and by the
run's journal, for a bare "failed" says nothing. Reads a few kB of the logs of runs that nobody is
working on; says too whether the same command goes on, or whether it would end the same way again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fastdllm.cluster.slurm import Accounted
from fastdllm.runs.attempts import Attempt
from fastdllm.runs.stopping import RESUME_EXIT_CODE, TIME_LIMIT

TAIL_BYTES = 4096
LONGEST_LINE = 200

_STATES = {
    "CANCELLED": ("cancelled", True),
    "TIMEOUT": ("stopped by its time limit", True),
    "DEADLINE": ("stopped by its deadline", True),
    "PREEMPTED": ("preempted, and not queued again", True),
    "NODE_FAIL": ("its node failed", True),
    "BOOT_FAIL": ("its node did not start", True),
    "REQUEUED": ("put back into the queue, and gone from there", True),
    "OUT_OF_MEMORY": ("out of memory (the job's, not the GPU's)", False),
}
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
    told = job.state if job.state in _STATES and written != "OUT_OF_MEMORY" else written
    if told in _STATES:
        words, goes_on = _STATES[told]
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
    if job.state in _STATES:
        words, goes_on = _STATES[job.state]
        return replace(ending, words=words, goes_on=goes_on, is_clear=True)
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
