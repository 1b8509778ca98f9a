"""The state of a run, told from its files alone; nothing here writes.

Used by `fastdllm status`, by reconcile.py and by the table of a dry run, so that all three say the
same. A run is valid when a summary with its fingerprint exists, in results/ or in artifacts/.
"""

from __future__ import annotations

import fcntl
import math
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from fastdllm.errors import UserError
from fastdllm.files import read_json
from fastdllm.workflow.artifacts import StoredSummary, origin_of, stored_summary
from fastdllm.workflow.changes import Change, what_changed
from fastdllm.workflow.runs import Run

# A run on another machine, whose lock cannot be seen from here, counts as running this long after
# it last told its progress (at least every second while it decodes; scoring takes longer).
REMOTE_SILENCE_S = 300.0


class State(StrEnum):
    """What a person can do about a run follows from its state."""

    DONE = "done"
    UNPUBLISHED = "unpublished"
    RUNNING = "running"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    STALE = "stale"
    MISSING = "missing"

    @property
    def has_result(self) -> bool:
        """Whether nothing needs to be decoded."""
        return self in (State.DONE, State.UNPUBLISHED)


@dataclass(frozen=True, slots=True)
class RunStatus:
    """The state of one run, and why.

    reason: one line for people, empty when the state says it all.
    changes: for a result of other settings, what differs.
    progress: the last numbers of a running or interrupted eval (items_done, items_total, ...).
    is_only_published: valid in artifacts/, but not (yet) in results/.
    record: the summary of the current settings, where there is one.
    is_repeated: to be made even with a valid result.
    leader: the run whose result it is, or will be, made from; None for one that is decoded.
    """

    run: Run
    state: State
    reason: str = ""
    changes: tuple[Change, ...] = ()
    progress: Mapping[str, Any] | None = None
    is_only_published: bool = False
    record: Mapping[str, Any] | None = None
    is_repeated: bool = False
    leader: Run | None = None

    @property
    def is_to_be_made(self) -> bool:
        """Whether the run is to be made here: by an eval, or from its leader's result."""
        return self.state is not State.RUNNING and (self.is_repeated or not self.state.has_result)

    @property
    def title(self) -> str:
        """The state, with what was edited where that is all that made the result stale."""
        if self.state is State.STALE and self._is_only_edited:
            return f"{self.state} ({', '.join(str(change) for change in self.changes)})"
        return str(self.state)

    @property
    def why(self) -> str:
        """What the title leaves unsaid: reason or changes, and the leader, in one line."""
        same = f"same as {self.leader.name}" if self.leader and self.is_to_be_made else ""
        if same and self.state is State.MISSING:
            return same
        told = self.reason
        if not told and not (self.state is State.STALE and self._is_only_edited):
            told = ", ".join(str(change) for change in self.changes)
        return "; ".join(part for part in (told, same) if part)

    @property
    def _is_only_edited(self) -> bool:
        return bool(self.changes) and all(change.is_edit for change in self.changes)


def inspect(run: Run) -> RunStatus:
    """Tell the state of a run."""
    progress = _progress(run)
    if progress is not None and _is_running(run, progress):
        return RunStatus(run, State.RUNNING, _progress_line(progress), progress=progress)
    result = stored_summary(run.summary_path)
    artifact = StoredSummary() if run.limit is not None else stored_summary(run.artifact_path)
    if artifact.belongs_to(run) and not result.belongs_to(run):
        return RunStatus(run, State.DONE, is_only_published=True, record=artifact.record)
    if result.belongs_to(run):
        return _finished(run, result, artifact, repeat=_repeat(run, progress))
    return _unfinished(run, result, artifact, progress=progress)


def _finished(
    run: Run, result: StoredSummary, artifact: StoredSummary, *, repeat: str
) -> RunStatus:
    if run.limit is not None or result.record == artifact.record:
        return RunStatus(run, State.DONE, repeat, record=result.record)
    reason = (
        "differs from its copy in artifacts/"
        if artifact.belongs_to(run)
        else "not yet copied to artifacts/"
    )
    return RunStatus(run, State.UNPUBLISHED, repeat or reason, record=result.record)


def _repeat(run: Run, progress: Mapping[str, Any] | None) -> str:
    """What became of a forced repeat that left the valid result in place; empty without one."""
    failure = _failure(run)
    if failure is not None:
        return f"a repeat of it failed: {failure}"
    if progress is not None:
        return f"a repeat of it was interrupted: {_progress_line(progress)}"
    return ""


def _unfinished(
    run: Run,
    result: StoredSummary,
    artifact: StoredSummary,
    *,
    progress: Mapping[str, Any] | None,
) -> RunStatus:
    old = result.record or artifact.record
    changes = () if old is None else what_changed(old.get("decides"), run.decides)
    failure = _failure(run)
    if failure is not None:
        return RunStatus(run, State.FAILED, failure, changes, progress)
    if progress is not None:
        line = f"{_progress_line(progress)}; the same command resumes"
        return RunStatus(run, State.INTERRUPTED, line, changes, progress)
    if old is not None:
        return RunStatus(run, State.STALE, _not_decoded(old, run), changes)
    return RunStatus(run, State.MISSING, result.problem or artifact.problem or "")


def _not_decoded(old: Mapping[str, Any], run: Run) -> str:
    """Why a copy under the run's own fingerprint is no result of it; empty for any other."""
    if old.get("fingerprint") != run.fingerprint:
        return ""
    wanted = "replicate: true asks for its own" if run.is_replicated else "no longer the same"
    return f"copied from {origin_of(old, run)}; {wanted}"


def _progress(run: Run) -> Mapping[str, Any] | None:
    path = run.folder / "progress.json"
    if not path.exists():
        return None
    try:
        record = read_json(path)
    except UserError:
        return {}
    return record if isinstance(record, dict) else {}


def _progress_line(progress: Mapping[str, Any]) -> str:
    done, total = progress.get("items_done"), progress.get("items_total")
    if not isinstance(done, int) or not isinstance(total, int):
        return "progress unknown"
    parts = [f"{done} of {total} items"]
    for key, unit in (("tokens_per_s", "tokens/s"), ("tokens_per_forward", "tokens/forward")):
        if _is_number(progress.get(key)):
            parts.append(f"{progress[key]:.1f} {unit}")
    if _is_number(progress.get("time_left_s")):
        parts.append(f"{_duration(progress['time_left_s'])} left")
    if isinstance(progress.get("state"), str) and progress["state"] != "decoding":
        parts.append(progress["state"])
    return ", ".join(parts)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _is_running(run: Run, progress: Mapping[str, Any]) -> bool:
    if _is_locked(run.folder / "lock"):
        return True
    if progress.get("host") in (None, socket.gethostname()):
        return False
    try:
        age_s = time.time() - (run.folder / "progress.json").stat().st_mtime
    except OSError:
        return False
    return age_s < REMOTE_SILENCE_S


def _is_locked(path: Path) -> bool:
    """Whether a process holds the run's lock; a shared attempt, given back at once, tells."""
    try:
        with path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _failure(run: Run) -> str | None:
    path = run.folder / "failed.json"
    if not path.exists():
        return None
    try:
        record = read_json(path)
    except UserError:
        record = {}
    record = record if isinstance(record, dict) else {}
    reason = " ".join(str(record.get("reason") or "no reason recorded").split())
    log = record.get("log")
    return f"{reason} (log: {log})" if log else reason
