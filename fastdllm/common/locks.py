"""Whether somebody holds the lock of a file; for those who only look."""

from __future__ import annotations

import fcntl
from pathlib import Path


def is_locked(path: Path) -> bool | None:
    """Whether a process holds the lock; a shared attempt, given back at once, tells.

    None where that cannot be told, as on a file system without locks; a missing file is not locked.
    """
    try:
        with path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return None
    return False
