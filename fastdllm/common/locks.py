"""Locks on files: an flock, which the operating system drops when its holder dies, however it dies.

The `filelock` package is no substitute: it has no shared holds on a file, and where a file system
has no locks, it uses a marker file, which outlives a killed process.
"""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO


def take_lock(file: IO[bytes] | int, *, shared: bool = False, wait: bool = False) -> bool:
    """Lock an open file until it is closed; False while another process holds it, unless we wait.

    Raises:
        OSError: the file system has no locks.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    if wait:
        fcntl.flock(file, kind)
        return True
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # a few file systems answer EACCES
        return False
    return True


def is_locked(path: Path) -> bool | None:
    """Whether a process holds the lock of a file; a missing file is not locked.

    None if that is unknown, as on a file system without locks. To find out, the lock is
    shared for a moment.
    """
    try:
        with path.open("rb") as stream:
            return not take_lock(stream, shared=True)
    except FileNotFoundError:
        return False
    except OSError:
        return None
