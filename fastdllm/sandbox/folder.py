"""The folder that a program may write to, where it has no root of its own (namespaces.py)."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

# What a file or folder counts at least, as their number is limited too.
LEAST_BYTES = 4096


def make_folder(path: Path) -> Path:
    """Make an empty folder for a program, and return it.

    It is in one of this user's, so that another user can put nothing else in its place.
    """
    path.mkdir()
    path.chmod(0o711)  # whatever is the rule for new ones
    (own := path / "own").mkdir(mode=0o700)
    return own


def remove_folder(path: Path) -> None:
    """Remove what `make_folder` made, whatever a program has done with it."""
    try:
        for folder in (path / "own", path):
            with suppress(FileNotFoundError):
                folder.rmdir()
    except OSError:  # by programs that take names of any length, and folders as deep as they like
        os.spawnvp(os.P_WAIT, "chmod", ["chmod", "-R", "u+rwx", str(path)])
        os.spawnvp(os.P_WAIT, "rm", ["rm", "-rf", str(path)])


def bytes_in(folder: Path) -> int:
    """Return the bytes of the files in a folder.

    Raises:
        OSError: a folder in it is too deep, or closed.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    size = 0
    for place, folders, names in os.walk(folder, onerror=refuse):
        size += LEAST_BYTES * len(folders)
        for name in names:
            with suppress(FileNotFoundError):
                size += max(os.lstat(f"{place}/{name}").st_blocks * 512, LEAST_BYTES)
    return size


def bytes_without_name(pid: int) -> int:
    """Return the bytes of the files that a process has open, and that are in no folder any more."""
    size = 0
    with suppress(OSError):  # it has ended, or has not begun to run
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                found = file.stat()
                size += 0 if found.st_nlink else found.st_blocks * 512
    return size
