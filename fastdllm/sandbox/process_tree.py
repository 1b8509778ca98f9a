"""The processes that others have started, and the end of all below this one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# Between two looks at processes that are being ended.
PAUSE_S = 0.002


def tasks_of(user: int) -> int:
    """Return how many threads a user has; their number is limited together."""
    tasks = 0
    for pid in _pids():
        with suppress(OSError, ValueError, IndexError):
            if Path(f"/proc/{pid}").stat().st_uid == user:
                tasks += int(stat_fields(pid)[17])
    return tasks


def descendants(pid: int) -> set[int]:
    """Return the processes below one."""
    children: dict[int, list[int]] = {}
    # A cluster may hide processes (hidepid) that cannot be looked into, but not who one's own are.
    with suppress(OSError):
        own = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
        children[pid] = list(map(int, own.split()))
    for other in _pids():
        with suppress(OSError, ValueError, IndexError):
            children.setdefault(int(stat_fields(other)[1]), []).append(other)
    found: set[int] = set()
    waiting = list(children.get(pid, ()))
    while waiting:
        found.add(child := waiting.pop())
        waiting += children.get(child, ())
    return found


def waiting_s(pid: int) -> float:
    """Return how long a process could have run, but no processor was free; 0 where unknown."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    return 0.0


def end_all() -> None:
    """End all processes below this one, and wait for them.

    This one is who orphans below it get for a parent (PR_SET_CHILD_SUBREAPER): without a child, it
    has no descendant either.
    """
    stopped: set[int] = set()
    while _reaped():
        # A scan can miss one whose parent ends meanwhile, so that this is done until none is left.
        found = descendants(os.getpid())
        # What is stopped starts no other; until all are, killing some makes room for new ones.
        for pid in found:
            _signal(pid, signal.SIGKILL if found <= stopped else signal.SIGSTOP)
        stopped = found
        time.sleep(PAUSE_S)


def _reaped() -> bool:
    """Wait for those that have ended; return whether others are left."""
    try:
        while os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG):
            pass
    except ChildProcessError:
        return False
    return True


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _pids() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())


def stat_fields(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the third on, as proc(5) counts them."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return text.rpartition(")")[2].split()
