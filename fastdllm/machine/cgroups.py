"""What Linux control groups (a container, a SLURM job, a systemd slice) leave to this process.

Reads versions 1 and 2, and all levels from the process's own group to the root, as any of them may
set a limit. Without a limit, or without Linux, the result is None.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

# Version 1 writes "no limit" as a number close to 2**63.
NO_LIMIT = 2**60


def memory_left(root: Path = Path("/")) -> int | None:
    """Return the bytes that may still be allocated; None without a limit.

    Pages of files count as free: the kernel reclaims them on demand, active ones last.
    """
    files = {
        "": ("memory.max", "memory.current", ""),
        "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    }
    free = []
    for controller, (limit_file, used_file, total) in files.items():
        for group in _groups(root, controller):
            limit, used = _number(group / limit_file), _number(group / used_file)
            if limit is None or used is None or limit >= NO_LIMIT:
                continue
            pages = [
                _statistic(group / "memory.stat", f"{total}{kind}_file")
                for kind in ("inactive", "active")
            ]
            free.append(max(limit - used + sum(pages), 0))
    return min(free, default=None)


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Return how many processors' worth of time may be used, such as 1.5; None without a limit."""
    quotas = []
    for group in _groups(root, ""):
        quota, _, period = (_text(group / "cpu.max") or "").partition(" ")
        if quota.isdigit() and period.isdigit():
            quotas.append(int(quota) / int(period))
    for group in _groups(root, "cpu"):
        share, length = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
        if share is not None and length:
            quotas.append(share / length)
    return min(quotas, default=None)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of the process's group and those above it; controller "" is version 2."""
    mount = root / "sys/fs/cgroup" / controller
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller not in controllers.split(","):
            continue
        # Seen from inside a container, the process's group can be the root, or lie outside of what
        # is mounted; the root of the mount is then the group that applies.
        group = PurePosixPath(path.lstrip("/"))
        yield from (mount / level for level in (group, *group.parents) if ".." not in level.parts)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    """Return the number in a file; None for a missing file and for words such as `max` and -1."""
    text = _text(path)
    return int(text) if text is not None and text.isdigit() else None


def _statistic(path: Path, key: str) -> int:
    for line in (_text(path) or "").splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.isdigit():
            return int(value)
    return 0
