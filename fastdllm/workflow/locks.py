"""What another Snakemake in this folder is making at the moment, from the locks that it keeps.

A Snakemake that was killed leaves its locks behind; main_process.py knows whether that is so.
"""

from __future__ import annotations

from pathlib import Path

LOCKS = Path(".snakemake/locks")


def held_outputs(folder: Path = LOCKS) -> frozenset[str]:
    """The files that are being made by Snakemake processes of this folder."""
    held: set[str] = set()
    for file in folder.glob("*.output.lock"):
        try:
            held.update(file.read_text(encoding="utf-8").splitlines())
        except OSError:
            continue  # released in this very moment
    return frozenset(held)


def has_locks(folder: Path = LOCKS) -> bool:
    """Whether a Snakemake works in this folder, or was killed there."""
    return any(folder.glob("*.lock"))


def clear_locks(folder: Path = LOCKS) -> None:
    """Remove the locks of a Snakemake that is certainly dead."""
    for file in folder.glob("*.lock"):
        file.unlink(missing_ok=True)
