"""Which other Snakemake processes work in this folder, and whether dead ones left locks.

Snakemake's locks name the files that are being made, but not by whom, and remain when it is killed.
So each main process writes its name into a file and holds an flock on it, which the operating
system releases when the process dies. Several may work in one folder, on different runs.

An flock may not be visible from other hosts. Such a process counts as possibly alive, unless it ran
in a SLURM job of this user: then the queue decides.
"""

from __future__ import annotations

import atexit
import json
import os
import shlex
import socket
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from pathlib import Path

from fastdllm.cluster.jobs import MAIN_COMMENT, may_hold
from fastdllm.cluster.slurm import Job, SlurmError, has_slurm, own_jobs
from fastdllm.cluster.submission import forget_submission, read_submission
from fastdllm.common.console import notice
from fastdllm.common.errors import UserError
from fastdllm.common.files import cannot, is_own
from fastdllm.common.locks import is_locked, take_lock

RECORDS = Path(".snakemake/fastdllm")
LOCKS = Path(".snakemake/locks")  # Snakemake's own
UNLOCK, NO_LOCK = "--unlock", "--nolock"


class Life(Enum):
    """What is known of a process."""

    ALIVE = auto()
    DEAD = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class MainProcess:
    """A main process of Snakemake.

    since: UTC. slurm_job: the job that it runs in, if any. log: Snakemake's own.
    """

    pid: int
    host: str
    since: str
    command: str
    slurm_job: str | None = None
    log: str | None = None

    @property
    def words(self) -> str:
        """Which process it is, where, and since when."""
        return f"snakemake ({self.place})"

    @property
    def place(self) -> str:
        """Where it is, and since when."""
        job = f"SLURM job {self.slurm_job}, " if self.slurm_job else ""
        return f"{job}process {self.pid} on {self.host} since {self.since} UTC"

    @property
    def look(self) -> str:
        """The command that shows whether it is alive."""
        if self.slurm_job:
            return f"squeue --job {self.slurm_job}"
        is_here = self.host == socket.gethostname()
        return f"ps -p {self.pid}" if is_here else f"ssh {self.host} ps -p {self.pid}"


def claim_folder(
    *, is_dry_run: bool, arguments: Sequence[str] | None = None, log: str | None = None
) -> None:
    """Record that this process works here; clear the locks of a dead one.

    A dry run touches nothing and is never refused. With `--unlock`, the user asserts that processes
    that cannot be seen are dead.

    Args:
        arguments: of `snakemake`; None: those of this process. log: Snakemake's own.

    Raises:
        UserError: there are locks, perhaps of a process that is alive on another host; or the
            record cannot be written.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if is_dry_run or NO_LOCK in words:
        return
    others = list(_others())
    dead = [(path, process) for path, process, life in others if life is Life.DEAD]
    unknown = [(path, process) for path, process, life in others if life is Life.UNKNOWN]
    if UNLOCK not in words and has_locks():
        if unknown:
            raise UserError(_perhaps_alive(unknown[0][1]))
        if dead and len(dead) == len(others):
            clear_locks()
            was = ", ".join(process.words for _, process in dead)
            notice(f"cleared the locks of a dead {was}")
    else:
        dead += unknown  # without locks they block no other process
    for path, _ in dead:
        path.unlink(missing_ok=True)
    if UNLOCK not in words:
        _sign(words, log)
        submission = read_submission()
        if submission is not None and submission.job != os.environ.get("SLURM_JOB_ID"):
            forget_submission()


def refuse_overlap(files: Iterable[str]) -> None:
    """Refuse to make what another main process is making.

    Raises:
        UserError: who makes what, and what to do. Snakemake's own message does not say who.
    """
    contested = sorted(held_outputs().intersection(files))
    if not contested:
        return
    others = living_processes()
    who = " and ".join(process.words for process in others) or "another snakemake"
    look = others[0].look if others else "ps -u $USER"
    more = f" and {len(contested) - 1} more" if len(contested) > 1 else ""
    raise UserError(
        f"{who} is making {contested[0]}{more}; wait for it, or ask for other runs; only if it is "
        f"dead ({look}): snakemake --unlock, then the same command"
    )


def living_processes() -> list[MainProcess]:
    """Return the main processes in this folder that are alive, or may be on another host."""
    return [process for process, life in main_processes() if life is not Life.DEAD]


def main_processes(*, max_age_s: float = 0.0) -> list[tuple[MainProcess, Life]]:
    """Return the other main processes recorded here; those that ended well are not.

    Args:
        max_age_s: maximum age of squeue's answer about those that run in a job.
    """
    return [(process, life) for _, process, life in _others(max_age_s=max_age_s)]


def _others(*, max_age_s: float = 0.0) -> Iterator[tuple[Path, MainProcess, Life]]:
    own_path = _path()
    for path in sorted(RECORDS.glob("main-*.json")):
        if path == own_path and is_locked(path) is not False:
            continue
        process = _read(path)
        if process is not None:
            yield path, process, _life(path, process, max_age_s)


def _life(path: Path, process: MainProcess, max_age_s: float) -> Life:
    is_held = is_locked(path)
    if is_held:
        return Life.ALIVE
    if process.slurm_job is not None and is_own(path):
        return _life_of_job(process.slurm_job, process.since, max_age_s)
    if process.host != socket.gethostname():
        return Life.UNKNOWN
    if is_held is None and Path(f"/proc/{process.pid}").exists():
        return Life.UNKNOWN
    return Life.DEAD


def _life_of_job(job_id: str, since: str, max_age_s: float) -> Life:
    if job_id == os.environ.get("SLURM_JOB_ID"):
        return Life.DEAD  # this job itself, before it was requeued
    if not has_slurm():
        return Life.UNKNOWN
    try:
        jobs = own_jobs(max_age_s=max_age_s)
    except SlurmError:
        return Life.UNKNOWN
    same = [job for job in jobs if job.id == job_id and not _is_of_another_project(job)]
    is_held = any(may_hold(job, since=f"{since}+00:00") for job in same)
    return Life.ALIVE if is_held else Life.DEAD


def _is_of_another_project(job: Job) -> bool:
    is_of_workflow = job.comment.startswith(("rule_", MAIN_COMMENT))
    return is_of_workflow and not job.is_in(Path.cwd())


def _read(path: Path) -> MainProcess | None:
    try:
        return MainProcess(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None  # it has just ended, or was killed while it wrote its name


def _path() -> Path:
    return RECORDS / f"main-{socket.gethostname()}-{os.getpid()}.json"


def _sign(words: Sequence[str], log: str | None) -> None:
    path = _path()
    process = MainProcess(
        pid=os.getpid(),
        host=socket.gethostname(),
        since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        command=shlex.join(["snakemake", *words]),
        slurm_job=os.environ.get("SLURM_JOB_ID"),
        log=log,
    )
    try:
        RECORDS.mkdir(parents=True, exist_ok=True)
        # Never closed: the lock lasts as long as the process, and is not inherited by its jobs.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        with suppress(OSError):  # without locks on this file system, pid and host have to do
            take_lock(handle, wait=True)
        os.write(handle, json.dumps(asdict(process)).encode())
    except OSError as error:
        raise cannot("write", path, error) from None
    atexit.register(_unsign, path, os.getpid())


def _unsign(path: Path, pid: int) -> None:
    if os.getpid() == pid:
        path.unlink(missing_ok=True)


def _perhaps_alive(process: MainProcess) -> str:
    return (
        f"this folder is locked by {process.words}, and from {socket.gethostname()} it cannot "
        f"be seen whether it is alive; check: {process.look}; if it is dead: snakemake --unlock, "
        "then the same command, which adopts its jobs"
    )


def held_outputs() -> frozenset[str]:
    """The files that are being made by Snakemake processes of this folder."""
    held: set[str] = set()
    for file in LOCKS.glob("*.output.lock"):
        try:
            held.update(file.read_text(encoding="utf-8").splitlines())
        except OSError:
            continue  # just released
    return frozenset(held)


def has_locks() -> bool:
    """Whether a Snakemake works in this folder, or was killed there."""
    return any(LOCKS.glob("*.lock"))


def clear_locks() -> None:
    """Remove the locks of a Snakemake that is certainly dead."""
    for file in LOCKS.glob("*.lock"):
        file.unlink(missing_ok=True)
