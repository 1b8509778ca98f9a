"""Namespaces of Linux: a process without the others' files, processes and network.

Each function changes the process that calls it, for good.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    *(0x00020000, 0x04000000, 0x08000000),
    *(0x10000000, 0x20000000, 0x40000000),
)
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC, _PRIVATE = (
    *(1, 2, 4, 8),
    *(32, 4096, 16384, 1 << 18),
)
# By name in the options of a mount; what the kernel may refuse to take off.
_OPTIONS = {"nosuid": _NOSUID, "nodev": _NODEV, "noexec": _NOEXEC, "noatime": 1024}
_OPTIONS |= {"nodiratime": 2048, "relatime": 1 << 21}
_DETACH = 2
# What can be written to.
_ROOM = "/sandbox"

_libc = ctypes.CDLL(None, use_errno=True)


def leave_namespaces() -> None:
    """Leave those of processes (for children), network and messages; no rights are needed.

    Raises:
        OSError: the kernel, or the container, forbids it.
    """
    flags = _NEWPID | _NEWNET | _NEWIPC | _NEWUTS
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        _check(_libc.unshare(flags), "unshare")
        return
    _check(_libc.unshare(flags | _NEWUSER), "unshare")
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")


def enter_own_root(folder: Path, readable: Collection[str], *, room_bytes: int) -> Path:
    """See only what is to be read, and the empty folder that is returned, to write to.

    folder: an empty one, under which the new root is put together.
    readable: folders and files, and also what links among them name.
    room_bytes: how much the returned one holds.

    Raises:
        OSError: the kernel, or the container, forbids it.
    """
    _check(_libc.unshare(_NEWNS), "unshare")
    _mount("none", "/", flags=_REC | _PRIVATE)
    _mount("tmpfs", folder, kind="tmpfs", flags=_NOSUID | _NODEV, options="size=1m,mode=755")
    for path in sorted({*readable, *map(os.path.realpath, readable)}):
        if Path(path).exists() and not _below(folder, path).exists():
            _show(path, folder)
    for mounted, options in list(_mounts_below(folder)):
        kept = sum(flag for name, flag in _OPTIONS.items() if name in options)
        _mount("none", mounted, flags=_REMOUNT | _BIND | _RDONLY | _NOSUID | kept)
    proc, room, tmp = (_below(folder, path) for path in ("/proc", _ROOM, "/tmp"))
    proc.mkdir()
    with suppress(OSError):  # a container that hides parts of /proc allows none; it stays empty
        _mount("proc", proc, kind="proc", flags=_NOSUID | _NODEV | _NOEXEC)
    room.mkdir()
    holds = f"size={room_bytes},nr_inodes=10000,mode=1777"
    _mount("tmpfs", room, kind="tmpfs", flags=_NOSUID | _NODEV, options=holds)
    if not tmp.exists():  # as it does where the environment of Python is in /tmp
        tmp.symlink_to(_ROOM)
    _mount("none", folder, flags=_REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV)
    os.chdir(folder)
    _check(_libc.pivot_root(b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", _DETACH), "umount")
    return Path(_ROOM)


def _below(folder: Path, path: str) -> Path:
    return folder / path.lstrip("/")


def _show(path: str, folder: Path) -> None:
    """Let a file or folder, with all that is mounted in it, be seen in the new root."""
    place = _below(folder, path)
    if Path(path).is_dir():
        place.mkdir(parents=True, exist_ok=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    _mount(path, place, flags=_BIND | _REC)


def _mounts_below(folder: Path) -> Iterable[tuple[str, list[str]]]:
    """Yield place and options of what is mounted in a folder, except on the folder itself."""
    with Path("/proc/self/mountinfo").open(encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields = line.split(" ")
            place = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
            if place.startswith(f"{folder}/"):
                yield place, fields[5].split(",")


def _mount(
    source: str, target: Path | str, *, kind: str = "", flags: int = 0, options: str = ""
) -> None:
    done = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() or None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    _check(done, f"mount {target}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
