"""One process at a time in a run's folder.

The lock is an flock on `lock`, so the operating system drops it when its holder dies, however it
dies. Pid and host stand inside for people: on a network file system the holder may be on another
node. The file itself stays; removing it would let two processes lock two different files.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from fastdllm.errors import UserError
from fastdllm.evaluation.environment import host_name
from fastdllm.files import cannot

# `fastdllm status` tries the lock as well, for a moment; only who holds it longer is at work.
PATIENCE_S, RETRY_S = 1.0, 0.05


@contextmanager
def run_lock(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a run folder; refuse, or with `wait` block, while another process has it.

    Raises:
        UserError: held by another process (pid, host, since when), folder not writable, or a file
            system without locks.
    """
    path = folder / "lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Unbuffered: a name that a full disk refused must not be tried again on closing.
        handle = path.open("a+b", buffering=0)
    except OSError as error:
        raise cannot("write", path, error) from None
    with handle:
        _acquire(handle, path, wait)
        holder = {"pid": os.getpid(), "host": host_name(), "since": datetime.now(UTC).isoformat()}
        _write_name(handle, json.dumps(holder))
        try:
            yield
        finally:
            _write_name(handle, "")


def _acquire(handle: IO[bytes], path: Path, wait: bool) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise UserError(
                    f"{path.parent}: {_describe(path)} is working on this run; wait for it to "
                    "finish, or add --wait"
                ) from None
            time.sleep(RETRY_S)
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise UserError(
                    f"{path}: this file system has no file locks ({error.strerror}), which keep "
                    "two processes apart; put results/ on another one"
                ) from None
            raise cannot("lock", path, error) from None


def _describe(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return (
            f"process {holder['pid']} on host {holder['host']} (since {holder['since'][:19]} UTC)"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # it holds the lock but has not written its name yet


def _write_name(handle: IO[bytes], text: str) -> None:
    try:
        handle.truncate(0)
        handle.write(text.encode())
    except OSError:
        return  # the name is a courtesy; the lock itself needs no space on the disk
