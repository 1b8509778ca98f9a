"""Checks of Python, the virtual environment, and where caches go."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from fastdllm.cluster.archive import find_archive
from fastdllm.cluster.build import CACHES
from fastdllm.cluster.venv import cache_folders, problems
from fastdllm.common.errors import UserError
from fastdllm.launch import ARCHIVE_VARIABLE
from fastdllm.tools.doctor.finding import DoctorFinding, ok, problem, warn


def look_at_python() -> list[DoctorFinding]:
    """Report the interpreter."""
    return [ok("python", f"{platform.python_version()}, {sys.executable}")]


def look_at_environment() -> list[DoctorFinding]:
    """Check that all packages of this project are installed; and their archive, if used."""
    if sys.prefix == sys.base_prefix:
        return [problem("environment", "none: Python's own packages", "make setup-cluster")]
    venv = Path(sys.prefix)
    place = venv.resolve()
    shown = str(venv) if place == venv else f"{venv} -> {place}"
    fix = "make setup-cluster" if Path(".venv").is_symlink() else "make setup"
    try:
        found = [problem("environment", line, fix) for line in problems(venv, Path())]
    except UserError as error:
        found = [warn("environment", shown, f"not compared: {error}")]
    return [*(found or [ok("environment", f"{shown}, complete")]), *_archive(venv)]


def _archive(venv: Path) -> list[DoctorFinding]:
    wanted = os.environ.get(ARCHIVE_VARIABLE)
    if not wanted:
        return []
    if find_archive(venv) != Path(wanted):
        text = f"{wanted} is not the archive of this environment, so jobs do not use it"
        return [warn("archive", text, f"fastdllm env --pack, or unset {ARCHIVE_VARIABLE}")]
    return [ok("archive", f"{wanted}, unpacked by jobs")]


def look_at_caches() -> list[DoctorFinding]:
    """Check that caches, which grow by gigabytes, are not in a small home."""
    folders = cache_folders()
    text = ", ".join(f"{name} {folder}" for name, (folder, _) in folders.items())
    unset = [name for name, (_, is_set) in folders.items() if not is_set]
    variables = Path(sys.prefix) / CACHES
    if unset and variables.is_file():
        return [warn("caches", f"{', '.join(unset)} not set here", f"source {variables}")]
    scratch = Path.home() / "scratch"
    in_home = [
        name for name, (folder, _) in folders.items() if _device(folder) == _device(Path.home())
    ]
    if in_home and scratch.is_dir() and _device(scratch) != _device(Path.home()):
        fix = f"export XDG_CACHE_HOME={scratch}/.cache in ~/.bashrc, or make setup-cluster"
        return [warn("caches", f"{', '.join(in_home)} in the home, which has little room", fix)]
    return [ok("caches", text)]


def _device(folder: Path) -> int | None:
    """Return the file system of a folder, or of the nearest one above that exists."""
    for place in (folder, *folder.parents):
        try:
            return place.stat().st_dev
        except OSError:
            continue
    return None
