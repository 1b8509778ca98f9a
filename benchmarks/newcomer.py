"""What a newcomer waits for: `python -m benchmarks.newcomer` clones the project and times it.

Set-up from nothing (package index and cache as this machine has them), `make run` twice, a dry run
in another fresh clone, and `make test`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.record import ROOT, record

COMMAND = "python -m benchmarks.newcomer"


def seconds(folder: Path, *command: str) -> float:
    """Wall time of one command, whose output is shown."""
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True)
    return time.perf_counter() - started


def folder_size_gb(folder: Path) -> float:
    """Disk space of a folder, in units of 1e9 bytes."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files) / 1e9


def main() -> None:
    """Measure and record."""
    figures = {}
    with tempfile.TemporaryDirectory() as name:
        first, second = Path(name) / "first", Path(name) / "second"
        for clone in (first, second):
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        figures["`make setup`, from nothing"] = f"{seconds(first, 'make', 'setup'):.0f} s"
        figures["size of `.venv`"] = f"{folder_size_gb(first / '.venv'):.1f} GB"
        figures["`make setup`, again"] = f"{seconds(first, 'make', 'setup'):.2f} s"
        figures["`make run`, after installation"] = f"{seconds(first, 'make', 'run'):.0f} s"
        figures["`make run`, again"] = f"{seconds(first, 'make', 'run'):.1f} s"
        # As a module: Python then takes the code of the folder, not of the first clone.
        dry_run = (str(first / ".venv" / "bin" / "python"), "-m", "snakemake", "-n")
        figures["`snakemake -n`, another fresh clone"] = f"{seconds(second, *dry_run):.1f} s"
        figures["`make test`"] = f"{seconds(first, 'make', 'test'):.0f} s"
    record("newcomer", command=COMMAND, figures=figures)
    for figure, value in figures.items():
        sys.stdout.write(f"{figure}: {value}\n")


if __name__ == "__main__":
    main()
