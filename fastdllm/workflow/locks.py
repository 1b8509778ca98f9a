"""What another Snakemake in this folder is making at the moment, from the locks that it keeps.

A Snakemake that was killed leaves its locks behind until `snakemake --unlock`.
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
