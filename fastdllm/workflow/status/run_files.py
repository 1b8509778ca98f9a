"""The files that the processes of a run keep in its folder: progress, failures, locks; read only.

A run is decoded by one process (progress.json, lock), or by one for each of its shards
(shards/I-of-N.progress.json, .lock).
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastdllm.common.files import json_object
from fastdllm.common.locks import is_locked
from fastdllm.runs.attempts import NAME as ATTEMPTS
from fastdllm.runs.attempts import Attempt, read_attempts
from fastdllm.runs.progress import read_failure
from fastdllm.runs.shards import Shard, split_name
from fastdllm.workflow.project.runs import Run

# A process on another machine, whose lock cannot be seen from here, counts as running this long
# after it last wrote its progress (every second while it decodes; scoring takes longer).
REMOTE_SILENCE_S = 300.0
_KINDS = ("json", "lock", "progress.json", "failed.json")


@dataclass(frozen=True, slots=True)
class Part:
    """What one process leaves: that of a whole run, or of one of its shards.

    progress: its last numbers; None when it has not begun, or has ended well.
    age_s: since it wrote them. is_mine: whether this user did.
    failure: why it failed, in one line.
    is_locked: whether it is alive, as seen from this machine.
    is_done: whether a shard has ended well.
    code: digest of the code that decoded its answers, as far as that is recorded.
    """

    shard: Shard | None = None
    progress: Mapping[str, Any] | None = None
    age_s: float = math.inf
    is_mine: bool = True
    failure: str | None = None
    is_locked: bool = False
    is_done: bool = False
    code: str | None = None

    @property
    def name(self) -> str | None:
        """The shard as the journal names it; None for the part of a process without shards."""
        return None if self.shard is None else str(self.shard)

    @property
    def is_elsewhere(self) -> bool:
        """Whether it works, or did, on another machine, whose locks may not be seen here."""
        host = (self.progress or {}).get("host")
        return host not in (None, socket.gethostname())

    @property
    def has_recent_progress(self) -> bool:
        """Whether it wrote its progress on another machine within the last minutes."""
        return self.is_elsewhere and self.age_s < REMOTE_SILENCE_S


@dataclass(frozen=True, slots=True)
class RunFiles:
    """All parts of a run. whole: that without shards. of: the number of shards, if it is split."""

    run: Run
    names: frozenset[str]
    whole: Part
    shards: tuple[Part, ...] = ()
    of: int | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.whole, *self.shards)

    @property
    def failure(self) -> str | None:
        """Why the run, or a shard of it, failed; None if none did."""
        for part in self.parts:
            if part.failure is not None:
                return part.failure if part.shard is None else f"shard {part.name}: {part.failure}"
        return None

    def attempts(self) -> list[Attempt]:
        """The journal of the run."""
        return read_attempts(self.run.folder) if ATTEMPTS in self.names else []


def read_run_files(run: Run, *, count: int | None = None) -> RunFiles:
    """Read the folder of a run.

    Args:
        count: the number of its shards, if known; by default that of its newest files.
    """
    names = _listing(run.folder)
    of, shards = (count, ()) if "shards" not in names else _shards(run, count)
    # The process that finishes a split run holds the lock as well, and may write no progress.
    whole = _part(run.folder, "", names, has_lock="progress.json" in names or bool(shards))
    return RunFiles(run, names, whole, shards, of)


def _listing(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:  # a Path for each would cost status a tenth
            return frozenset(entry.name for entry in entries)
    except OSError:
        return frozenset()


def _shards(run: Run, count: int | None) -> tuple[int | None, tuple[Part, ...]]:
    folder = run.folder / "shards"
    kinds: dict[Shard, set[str]] = {}
    for name in _listing(folder):
        shard, kind = split_name(name)
        if shard is not None and kind in _KINDS:
            kinds.setdefault(shard, set()).add(kind)
    of = count or _newest_count(folder, kinds)
    shards = sorted((shard for shard in kinds if shard.count == of), key=lambda s: s.index)
    return of, tuple(_shard(run, folder, shard, kinds[shard]) for shard in shards)


def _shard(run: Run, folder: Path, shard: Shard, kinds: Collection[str]) -> Part:
    stamp = (_record(folder / f"{shard}.json") if "json" in kinds else {}) or {}
    part = _part(folder, f"{shard}.", kinds, has_lock="lock" in kinds)
    is_done = stamp.get("fingerprint") == run.fingerprint
    code = stamp.get("code_digest") if is_done else part.code
    return replace(part, shard=shard, is_done=is_done, code=code)


def _part(folder: Path, prefix: str, kinds: Collection[str], *, has_lock: bool) -> Part:
    """Read the files of one process.

    Args:
        prefix: of their names, before progress.json and so on.
        kinds: names without the prefix that are in the folder.
    """
    path = folder / f"{prefix}progress.json"
    has_progress = "progress.json" in kinds
    age_s, is_mine = _age_and_owner(path) if has_progress else (math.inf, True)
    has_failed = "failed.json" in kinds
    progress = _record(path) if has_progress else None
    return Part(
        progress=progress,
        age_s=age_s,
        is_mine=is_mine,
        failure=read_failure(folder / f"{prefix}failed.json") if has_failed else None,
        is_locked=has_lock and bool(is_locked(folder / f"{prefix}lock")),
        code=(progress or {}).get("code_digest"),
    )


def _newest_count(folder: Path, kinds: Mapping[Shard, Collection[str]]) -> int | None:
    """Return the number of shards of the file that was changed last."""
    counts = {shard.count for shard in kinds}
    if len(counts) < 2:
        return next(iter(counts), None)
    files = [(shard, folder / f"{shard}.{kind}") for shard in kinds for kind in kinds[shard]]
    return max(files, key=lambda file: -_age_and_owner(file[1])[0])[0].count


def _record(path: Path) -> Mapping[str, Any] | None:
    """Return the content of a file: empty if it is damaged, None if it has just been removed."""
    record = json_object(path)
    return record if record or path.exists() else None


def _age_and_owner(path: Path) -> tuple[float, bool]:
    """Return the seconds since a file was written, and whether this user owns it."""
    try:
        status = path.stat()
    except OSError:
        return math.inf, True
    return time.time() - status.st_mtime, status.st_uid == os.getuid()
