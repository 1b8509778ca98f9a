"""Who may work in a run's folder: one process on the whole run, or several on shards of it.

A lock is an flock on a file, so the operating system releases it when its holder dies, however it
dies. `lock` is held exclusively by an unsharded eval and by the process that finishes a run. Shards
share it, and each also holds `shards/<I>-of-<N>.lock` exclusively. So `holders` tests the run's
lock and those of its shards: testing the former alone, with a shared lock, would not reveal those
that share it.

A file that is held exclusively contains pid and host, for people: on a network file system the
holder may be on another node. The file itself stays; removing it would let two processes lock two
different files.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fastdllm.common.errors import UserError
from fastdllm.common.files import cannot, json_object, now
from fastdllm.common.locks import is_locked, take_lock

# `fastdllm status` takes the lock as well, for a moment; only a longer holder is at work.
PATIENCE_S, RETRY_S = 1.0, 0.05
# The work of a holder that merges and scores: it ends soon, so others wait for it.
FINISHING = "finish"


class Locked(UserError):
    """Another process works on the run; holder: which one, in words."""

    def __init__(self, run: Path, holder: str) -> None:
        self.holder = holder
        super().__init__(
            f"{run}: {holder} is working on this run; wait for it to finish, or add --wait"
        )


@contextmanager
def run_lock(
    folder: Path, *, wait: bool = False, work: str = "eval", awaits_finish: bool = True
) -> Iterator[None]:
    """Hold the lock of a run folder; refuse, or with `wait` block, while another process has it.

    Args:
        work: what the holder does, shown to those that it keeps out.
        awaits_finish: wait for a holder that finishes the run.

    Raises:
        Locked: held by another process (pid, host, since when).
        UserError: folder not writable, or a file system without locks.
    """
    with _opened(folder / "lock") as handle:
        _acquire(handle, run=folder, wait=wait, awaits_finish=awaits_finish)
        with _named(handle, work):
            yield


@contextmanager
def shard_lock(folder: Path, path: Path, *, wait: bool = False) -> Iterator[None]:
    """Share the lock of a run folder, and hold the one of a shard, `path`.

    Raises:
        Locked: another process works on the shard, or on the whole run.
        UserError: as for `run_lock`.
    """
    with _opened(folder / "lock") as shared, _opened(path) as exclusive:
        _acquire(shared, run=folder, wait=wait, shared=True)
        _write_name(shared, "")  # the name that a killed holder left would be taken for ours
        _acquire(exclusive, run=folder, wait=wait)
        with _named(exclusive, "shard"):
            yield


def holders(folder: Path) -> list[str]:
    """Return the processes at work in a run's folder: `process 12 on host a (since ...)`.

    A holder that cannot be seen from this machine, as locks do not cross nodes, is left out.
    """
    descriptions = []
    for path in [folder / "lock", *sorted((folder / "shards").glob("*-of-*.lock"))]:
        if is_locked(path):
            shard = "" if path.parent == folder else f"shard {path.stem}: "
            descriptions.append(f"{shard}{_describe(path)}")
    return descriptions


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: a name that a full disk refused must not be tried again on closing.
        handle = path.open("a+b", buffering=0)
    except OSError as error:
        raise cannot("write", path, error) from None
    with handle:
        yield handle


@contextmanager
def _named(handle: IO[bytes], work: str) -> Iterator[None]:
    """Write into the file who holds it."""
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "work": work}
    _write_name(handle, json.dumps({**holder, "since": now("auto")}))
    try:
        yield
    finally:
        _write_name(handle, "")


def _acquire(
    handle: IO[bytes], *, run: Path, wait: bool, shared: bool = False, awaits_finish: bool = True
) -> None:
    path = Path(handle.name)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            if take_lock(handle, shared=shared, wait=wait):
                return
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise UserError(
                    f"{path}: this file system has no file locks ({error.strerror}), which keep "
                    "two processes apart; put results/ on another one"
                ) from None
            raise cannot("lock", path, error) from None
        if awaits_finish and json_object(path).get("work") == FINISHING:
            deadline = time.monotonic() + PATIENCE_S
        if time.monotonic() > deadline:
            others = holders(run)
            raise Locked(run, others[0] if others else _describe(path))
        time.sleep(RETRY_S)


def _describe(path: Path) -> str:
    holder = json_object(path)
    try:
        return (
            f"process {holder['pid']} on host {holder['host']} (since {holder['since'][:19]} UTC)"
        )
    except (KeyError, TypeError):
        return "another process"  # it holds the lock but has not written its name yet


def _write_name(handle: IO[bytes], text: str) -> None:
    try:
        handle.truncate(0)
        handle.write(text.encode())
    except OSError:
        return  # the name is a courtesy; the lock itself needs no space on the disk
