"""Files whose dates decide what Snakemake makes: written when they change, dated as required.

Shared by runs and plans (reconcile.py) and by shards and packs (splitting.py).
"""

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
    """Set the modification time of a file, in seconds since the epoch.

    Raises:
        OSError: the file system refused.
    """
    if path.stat().st_mtime == seconds:
        return
    try:
        os.utime(path, (seconds, seconds))
    except PermissionError:
        # Only the owner may date a file; in a group's folder another file can replace it.
        write_text_atomically(path, path.read_text(encoding="utf-8"))
        os.utime(path, (seconds, seconds))


def date_after(path: Path, output: Path) -> None:
    """Make a file newer than what was made from it, so that Snakemake makes that again."""
    output_s = output.stat().st_mtime
    if path.stat().st_mtime <= output_s:
        # By the clock of another machine the output may be dated in the future.
        date(path, max(time.time(), output_s + 1))
