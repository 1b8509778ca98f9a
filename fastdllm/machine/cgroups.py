"""What Linux control groups (a container, a SLURM job, a systemd slice) leave to this process.

A limit may stand at any level between the process's own group and the root, so all are looked at.
Versions 1 and 2. Where there is no limit, or no Linux, the answer is None.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

# Version 1 writes "no limit" as a number close to 2**63.
NO_LIMIT = 2**60


def memory_left(root: Path = Path("/")) -> int | None:
    """Bytes that may still be allocated; None without a limit.

    File pages that nobody has used lately do not count as used: they make room when asked.
    """
    files = {
        "": ("memory.max", "memory.current", "inactive_file"),
        "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    }
    left = []
    for controller, (limit_file, used_file, reclaimable_key) in files.items():
        for group in _groups(root, controller):
            limit, used = _number(group / limit_file), _number(group / used_file)
            if limit is None or used is None or limit >= NO_LIMIT:
                continue
            left.append(max(limit - used + _statistic(group / "memory.stat", reclaimable_key), 0))
    return min(left, default=None)


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Processors' worth of time that may be used, such as 1.5; None without a limit."""
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
    """Folders of the process's group and of those above it; controller "": of version 2."""
    mount = root / "sys/fs/cgroup" / controller
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller not in controllers.split(","):
            continue
        # Seen from inside a container the own group can be the root, or lie outside of what is
        # mounted; the root of the mount is then the group that holds.
        own = PurePosixPath(path.lstrip("/"))
        yield from (mount / level for level in (own, *own.parents) if ".." not in level.parts)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    """The number in a file; None for a missing file and for words such as `max` and -1."""
    text = _text(path)
    return int(text) if text is not None and text.isdigit() else None


def _statistic(path: Path, key: str) -> int:
    for line in (_text(path) or "").splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.isdigit():
            return int(value)
    return 0
