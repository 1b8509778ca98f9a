"""attempts.jsonl: every process that worked on a run, one line when it starts, one when it stops.

The journal of a run for people and for `fastdllm status`: where it ran, how often it was stopped,
and why it ended. A start without a stop is a process that still runs or was killed outright.
Shards of a run write side by side, each line in one go; torn or damaged lines are skipped, as no
result depends on them. Imports no torch.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fastdllm.common.errors import UserError
from fastdllm.common.files import cannot, now
from fastdllm.machine.process import commit_words, git_state
from fastdllm.runs.stopping import TIME_LIMIT, Stopped, slurm_job
from fastdllm.version import DECODER_VERSION

# Passes SLURM_RESTART_COUNT on within a job; Snakemake drops that variable for the job step.
RESTARTS_VARIABLE = "FASTDLLM_RESTART_COUNT"
NAME = "attempts.jsonl"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One process that worked on a run, or on a part of it.

    time, ended: UTC in ISO 8601; ended is None for one that runs or was killed outright.
    commit, decoder_version: of the code that ran; commit ends in "+changes" where files differ, and
        is "unknown" with the reason where git refused.
    slurm_job, restart: id of its SLURM job, and how often that had been requeued.
    device: name of the GPU or processor; None until the model is loaded, or if none was needed.
    shard: such as "2-of-5". pack: the id of the pack that the run was decoded in.
    why: "" (unknown), "done", "failed", "time limit", "SIGTERM" or "interrupted".
    chunks: how many it finished.
    """

    time: str = ""
    host: str = ""
    pid: int = 0
    commit: str | None = None
    decoder_version: int = 0
    slurm_job: str | None = None
    restart: int = 0
    device: str | None = None
    shard: str | None = None
    pack: str | None = None
    why: str = ""
    chunks: int = 0
    ended: str | None = None


@dataclass(slots=True)
class Journal:
    """The open entry of one process; `chunks` is written when it stops.

    git: state of its code when it started (`git_state`).
    """

    path: Path
    id: str
    git: Mapping[str, Any] | None
    chunks: int = 0

    def add(self, **values: Any) -> None:
        """Append values of the attempt, now that they are known.

        Raises:
            UserError: the file cannot be written.
        """
        recorded = {key: value for key, value in values.items() if value not in (None, "", 0)}
        line = json.dumps({"attempt": self.id, **recorded}, ensure_ascii=False) + "\n"
        try:
            _append(self.path, line.encode())
        except OSError as error:
            raise cannot("write", self.path, error) from None


@contextmanager
def attempt(
    folder: Path,
    *,
    shard: str | None = None,
    pack: str | None = None,
    sources: Iterable[Path] = (),
) -> Iterator[Journal]:
    """Record in a run's folder that this process works on it, and how that ends.

    sources: files that decide the run.

    Raises:
        UserError: the file cannot be written.
    """
    journal = Journal(folder / NAME, secrets.token_hex(4), git_state(files=sources))
    restart = os.environ.get("SLURM_RESTART_COUNT") or os.environ.get(RESTARTS_VARIABLE, "")
    journal.add(
        time=now(),
        host=socket.gethostname(),
        pid=os.getpid(),
        commit=commit_words(journal.git),
        decoder_version=DECODER_VERSION,
        slurm_job=os.environ.get("SLURM_JOB_ID"),
        restart=int(restart) if restart.isdecimal() else 0,
        shard=shard,
        pack=pack,
    )
    why = "failed"
    try:
        yield journal
        why = "done"
    except Stopped as stopped:
        why = stopped.why
        raise
    except KeyboardInterrupt:
        why = "interrupted"
        raise
    finally:
        with suppress(UserError):  # a full disk is often why the run ended, which is reported
            journal.add(why=why, chunks=journal.chunks, ended=now())


def read_attempts(folder: Path) -> list[Attempt]:
    """Return the attempts at a run in the order in which they began."""
    try:
        lines = (folder / NAME).read_bytes().splitlines()
    except OSError:
        return []
    by_id: dict[str, dict[str, Any]] = {}
    for line in lines:
        record = _record(line)
        if record is not None:
            by_id.setdefault(record["attempt"], {}).update(record)
    return [_attempt(values) for values in by_id.values()]


def is_stuck(folder: Path, shard: str | None = None) -> bool:
    """Whether the last two attempts ended at the time limit, and neither finished a chunk.

    One that was ended by SIGTERM in between before it finished a chunk does not count.
    """
    of_shard = [attempt for attempt in read_attempts(folder) if attempt.shard == shard]
    relevant = [attempt for attempt in of_shard if attempt.why != "SIGTERM" or attempt.chunks][-2:]
    return len(relevant) == 2 and all(a.why == TIME_LIMIT and a.chunks == 0 for a in relevant)


def _append(path: Path, line: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b", buffering=0) as stream:
        if stream.tell() > 0:
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":  # torn by a kill; keep it from joining the new line
                line = b"\n" + line
        stream.write(line)


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    is_ours = isinstance(record, dict) and isinstance(record.get("attempt"), str)
    return record if is_ours else None


def _attempt(values: Mapping[str, Any]) -> Attempt:
    """Build the attempt; a value of a wrong type counts as missing."""
    defaults = Attempt()
    kept: dict[str, Any] = {}
    for field in fields(Attempt):
        value, default = values.get(field.name), getattr(defaults, field.name)
        if isinstance(value, str if default is None else type(default)):
            kept[field.name] = value
    return Attempt(**kept)


class Stuck(UserError):
    """A run that would be requeued forever."""


@contextmanager
def guarded_attempt(folder: Path, *, shard: str | None = None, **values: Any) -> Iterator[Journal]:
    """Keep an `attempt` in the journal of a run; a job without progress fails, and does not stop.

    Raises:
        Stuck: this attempt and the one before it met the time limit, each without a chunk.
    """
    try:
        with attempt(folder, shard=shard, **values) as journal:
            yield journal
    except Stopped as stopped:
        stopped.has_begun = True
        if stopped.is_time_limit and slurm_job() and is_stuck(folder, shard):
            raise Stuck(
                f"{folder}: two attempts in a row ended at the time limit without finishing a "
                "chunk; ask for a longer runtime, or set a smaller chunk_size for the task in "
                "workflow_config.yaml"
            ) from None
        raise
