"""What is committed of this project; the artifacts at hand may be those of a `make run`."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def unpack_committed(folder: Path, *paths: str) -> bool:
    """Write the committed files of `paths` into a folder; False outside of a git repository."""
    archive = subprocess.run(
        ["git", "archive", "HEAD", *paths], cwd=ROOT, capture_output=True, check=False
    )
    if archive.returncode:
        return False
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return True
