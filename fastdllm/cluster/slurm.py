"""SLURM's own commands as data: jobs in the queue, jobs in the accounting database.

With checks.py the only module that knows their options and output. Knows nothing of runs or of
Snakemake. The fields they print are separated by control characters that no name contains, as
--json is missing before SLURM 23, and fixed widths truncate names. A state is one bare word, even
where SLURM adds who caused it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from fastdllm.common.errors import UserError
from fastdllm.common.files import write_text_atomically
from fastdllm.common.paths import cache_home

# squeue itself gives up on a silent controller after some tries of MessageTimeout, 10 s by default;
# a controller that is merely slow answers 500 jobs within a few seconds.
PATIENCE_S = 60.0

# In any other state a job has ended for good.
LIVE = frozenset(
    (
        *("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING"),
        *("SIGNALING", "STAGE_OUT", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"),
    )
)
# Of these, those of a job that has no node yet, or none again.
WAITING = frozenset(("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"))

# Between fields, and at the end of a job: a comment or a folder may hold line breaks. In the option
# of squeue, text after the colon follows the field, which is then printed whole. Comment and folder
# come last, so that whatever a comment holds moves no other column.
_FIELD, _END = "\x1f", "\x1e"
_QUEUE_FIELDS = (
    *("JobArrayID", "State", "Reason", "StartTime", "NodeList", "TimeLeft"),
    *("RestartCnt", "Name", "Comment", "WorkDir"),
)
# The folder last: it may hold the separator.
_ACCOUNT_FIELDS = ("JobID", "State", "ExitCode", "WorkDir")
# How SLURM writes an empty field.
_NOTHING = frozenset(["", "N/A", "n/a", "(null)", "None", "None assigned", "Unknown", "NONE"])


class SlurmError(Exception):
    """A command of SLURM is absent, failed or did not answer; the message is one line."""


@dataclass(frozen=True, slots=True)
class Job:
    """One job of squeue.

    start: local time in ISO 8601, expected for a job that waits; None if SLURM does not know.
    time_left_s: until the time limit; the whole limit of a job that waits; None without one.
    restarts: how often it went back into the queue, after a preemption or a dead node.
    """

    id: str
    state: str
    reason: str = ""
    start: str | None = None
    node: str = ""
    time_left_s: float | None = None
    name: str = ""
    comment: str = ""
    work_dir: str = ""
    restarts: int = 0

    @property
    def is_live(self) -> bool:
        """Whether it waits, runs, or goes back into the queue."""
        return self.state in LIVE

    def is_in(self, folder: Path) -> bool:
        """Whether it works in a folder, which may have several names."""
        return _is_same(self.work_dir, folder)


@dataclass(frozen=True, slots=True)
class JobState:
    """The state of a job. state: SLURM's word for it. exit_code: of the batch script."""

    id: str
    state: str
    exit_code: int | None = None

    @property
    def is_live(self) -> bool:
        """Whether it waits, runs, or goes back into the queue."""
        return self.state in LIVE


def has_slurm() -> bool:
    """Whether this machine has SLURM's commands."""
    return shutil.which("squeue") is not None


def own_jobs(*, max_age_s: float = 0.0) -> list[Job]:
    """Return all jobs of this user that squeue lists, those that ended minutes ago included.

    One call of squeue. Each answer is kept in a file of the user's cache folder; with `max_age_s`,
    one up to that many seconds old is used, so that several `fastdllm status` ask once.

    Raises:
        SlurmError: squeue is absent, failed, or silent for a minute.
    """
    cached = _kept_jobs(max_age_s)
    if cached is not None:
        return cached
    last_field = _QUEUE_FIELDS[-1]
    columns = ",".join(f"{name}:{_END if name == last_field else _FIELD}" for name in _QUEUE_FIELDS)
    text = ask("squeue", "--me", "--states=all", "--noheader", f"--Format={columns}")
    jobs = [job for record in text.split(_END) if (job := _job(record)) is not None]
    _keep(jobs)
    return jobs


def accounted(ids: Iterable[str]) -> dict[str, JobState]:
    """Return the jobs with these ids from the accounting database; one call of sacct.

    Of a job that went back into the queue, its last start. Jobs that the database does not know
    (yet) are left out; so are all where the cluster keeps no accounts, and those of other folders
    than the current one: a controller that lost its state has given their ids anew.

    Raises:
        SlurmError: sacct failed, or was silent for a minute.
    """
    wanted = sorted(set(ids))
    if not wanted or shutil.which("sacct") is None:
        return {}
    form = f"--format={','.join(_ACCOUNT_FIELDS)}"
    try:
        text = ask(
            *("sacct", "--allocations", "--parsable2", "--noheader", form),
            f"--jobs={','.join(wanted)}",
        )
    except SlurmError as error:
        if "accounting storage is disabled" in str(error):
            return {}
        raise
    rows = (line.split("|", len(_ACCOUNT_FIELDS) - 1) for line in text.splitlines())
    whole = (fields for fields in rows if len(fields) == len(_ACCOUNT_FIELDS))
    jobs = (_accounted(fields[:-1]) for fields in whole if _is_same(fields[-1], Path.cwd()))
    return {job.id: job for job in jobs}


def submitted(*options: str) -> str:
    """Submit a job with these options of sbatch, and return its id.

    Raises:
        SlurmError: SLURM refused.
    """
    job_id = ask("sbatch", "--parsable", *options).strip().partition(";")[0]
    with suppress(OSError):  # the answer of squeue that is kept lacks the job, for seconds
        _answer_path().unlink()
    return job_id


def requeue(job_id: str) -> None:
    """Put a job back into the queue; one that runs is ended at once.

    Raises:
        SlurmError: SLURM refused, as for a job that was submitted with --no-requeue.
    """
    ask("scontrol", "requeue", job_id)


def ask(*command: str, patience_s: float = PATIENCE_S) -> str:
    """Run a command of SLURM and return what it prints.

    Raises:
        SlurmError: it is absent, failed, or was silent for `patience_s` seconds.
    """
    name = command[0]
    try:
        process = subprocess.run(
            command,
            env=_plain_environment(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=patience_s,
            check=False,
        )
    except FileNotFoundError:
        raise SlurmError(f"{name}: no such command; is this a machine of the cluster?") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{name}: no answer for {patience_s:.0f} s") from None
    except OSError as error:
        raise SlurmError(f"{name}: {error.strerror}") from None
    if process.returncode != 0:
        words = " ".join(process.stderr.decode(errors="replace").split())
        reason = words.removeprefix(f"{name}: ") or f"exit {process.returncode}"
        raise SlurmError(f"{name}: {reason}")
    return process.stdout.decode(errors="replace")


def bare_state(state: str) -> str:
    """Return the state alone: CANCELLED for "CANCELLED by 1000"."""
    words = state.split()
    return words[0].rstrip("+").upper() if words else ""


def _plain_environment(environment: Mapping[str, str]) -> dict[str, str]:
    # A user's own defaults (SQUEUE_STATES, SACCT_FORMAT, ...) would hide jobs and move columns.
    kept = {k: v for k, v in environment.items() if not k.startswith(("SQUEUE_", "SACCT_"))}
    return kept | {"SLURM_TIME_FORMAT": "standard"}


def _is_same(work_dir: str, folder: Path) -> bool:
    if work_dir in ("", str(folder)):
        return work_dir != ""
    return os.path.realpath(work_dir) == os.path.realpath(folder)


def _job(record: str) -> Job | None:
    fields = ["" if field in _NOTHING else field for field in record.lstrip("\n").split(_FIELD)]
    if len(fields) < len(_QUEUE_FIELDS):
        return None
    job_id, state, reason, start, node, time_left, restarts, name, *comment, work_dir = fields
    return Job(
        id=job_id,
        state=bare_state(state),
        reason=reason,
        start=start or None,
        node=node,
        time_left_s=span_seconds(time_left),
        name=name,
        comment=_FIELD.join(comment),
        work_dir=work_dir,
        restarts=int(restarts) if restarts.isdigit() else 0,
    )


def _accounted(fields: list[str]) -> JobState:
    job_id, state, exit_code = fields
    code = exit_code.partition(":")[0]
    return JobState(
        id=job_id,
        state=bare_state(state),
        exit_code=int(code) if code.isdigit() else None,
    )


def span_seconds(span: str) -> float | None:
    """Return the seconds of squeue's [days-][[hours:]minutes:]seconds; None for UNLIMITED etc."""
    days, dash, clock = span.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in parts) or (dash and not days.isdigit()):
        return None
    total = 0.0
    for part in parts:
        total = 60 * total + int(part)
    return total + 86400 * int(days or 0)


# The last answer of squeue, in a file of the user's cache folder.


def _kept_jobs(max_age_s: float) -> list[Job] | None:
    """Return the jobs of an answer up to so many seconds old; None without one."""
    if max_age_s <= 0:
        return None
    try:
        record = json.loads(_answer_path().read_text(encoding="utf-8"))
        # A date in the future comes from a clock that was set back.
        if not 0 <= time.time() - record["time"] <= max_age_s:
            return None
        return [Job(**fields) for fields in record["jobs"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # there is none, or another version wrote it


def _keep(jobs: Sequence[Job]) -> None:
    """Keep an answer for the next call."""
    record = {"time": time.time(), "jobs": [asdict(job) for job in jobs]}
    try:
        write_text_atomically(_answer_path(), json.dumps(record))
    except UserError:
        return  # the next call asks squeue again


def _answer_path() -> Path:
    """Return the file of this cluster and user."""
    key = f"{os.environ.get('SLURM_CONF', '')} {os.getuid()}"
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    return cache_home() / "fastdllm" / f"squeue-{name}.json"
