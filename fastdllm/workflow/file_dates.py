"""Files whose dates speak to Snakemake: written when they change, dated by what is to be done."""

from __future__ import annotations

import os
import time
from pathlib import Path

from fastdllm.common.files import cannot, write_text_atomically

EPOCH_S = 0


def write_if_changed(path: Path, text: str) -> None:
    """Write a text file, unless that is what it holds.

    Raises:
        UserError: the file system refused.
    """
    try:
        if path.read_text(encoding="utf-8") == text:
            return
    except (FileNotFoundError, UnicodeDecodeError):
        pass
    except OSError as error:
        raise cannot("read", path, error) from None
    write_text_atomically(path, text)


def date(path: Path, seconds: float) -> None:
    """Give a file a modification time, in seconds since the epoch.

    Raises:
        OSError: the file system refused.
    """
    if path.stat().st_mtime == seconds:
        return
    try:
        os.utime(path, (seconds, seconds))
    except PermissionError:
        # Only the owner of a file may date it; a group's folder lets us take its place.
        write_text_atomically(path, path.read_text(encoding="utf-8"))
        os.utime(path, (seconds, seconds))


def date_after(path: Path, output: Path) -> None:
    """Make a file newer than what was made from it, so that Snakemake makes that again."""
    output_s = output.stat().st_mtime
    if path.stat().st_mtime <= output_s:
        # The clock of another machine may have dated the output to our future.
        date(path, max(time.time(), output_s + 1))
