"""What the virtual environment is, whether it is whole, and whether it is the project's.

scripts/setup.sh writes a record into it; everything here reads. Only the standard library is used,
and no package of the environment is imported: one that is broken has to be described as well.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdllm.common.errors import UserError
from fastdllm.common.files import read_json

RECORD = ".fastdllm-env.json"
# Stands there once all packages are installed; `make` compares its date.
READY = ".ready"
# Stands there while packages are being written: found later, their writer was killed half-way.
UNFINISHED = ".unfinished"
CACHE_VARIABLES = ("XDG_CACHE_HOME", "HF_HOME", "PIP_CACHE_DIR")


@dataclass(frozen=True, slots=True)
class Built:
    """The record of an environment that was built.

    requirements: digest of what pyproject.toml and constraints.txt ask for.
    project: the folder whose code it runs (fastdllm itself is not copied into it).
    packages: `name-version`, as the folders of their metadata are called.
    """

    name: str
    requirements: str
    python: str
    project: str
    built: str
    files: int
    bytes: int
    packages: tuple[str, ...]


def read_record(venv: Path) -> Built | None:
    """What scripts/setup.sh wrote into an environment; None without a (whole) record."""
    try:
        record = read_json(venv / RECORD)
        return Built(**{**record, "packages": tuple(record["packages"])})
    except (UserError, TypeError, KeyError):
        return None


def requirements_digest(project: Path) -> str:
    """Digest of what a project asks for: pyproject.toml (its packages) and constraints.txt.

    Raises:
        UserError: one of them is missing or broken.
    """
    asked = _pyproject(project)
    parts = [asked.get("build-system"), asked.get("project")]
    parts.append(asked.get("tool", {}).get("setuptools"))
    parts.append(sorted(_pins(project).items()))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def environment_name(project: Path, python: str) -> str:
    """The folder name of an environment on scratch.

    Of its own for each project folder, since an environment runs the code of one, and for each
    Python (`3.11`), whose packages are not those of another.
    """
    text = f"{requirements_digest(project)} {project.resolve()} {python}"
    return f"venv-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def installed_packages(venv: Path) -> dict[str, str]:
    """Version of each package by its normal name (`huggingface-hub`)."""
    return {
        _normal(name): version
        for folder in _metadata_folders(venv)
        for name, _, version in [folder.name.removesuffix(".dist-info").rpartition("-")]
    }


def problems(venv: Path, project: Path) -> list[str]:
    """What is wrong with an environment, seen without reading its packages; empty: nothing.

    Raises:
        UserError: pyproject.toml or constraints.txt is missing or broken.
    """
    if not (venv / "bin" / "python").exists():
        return [f"{venv} is no virtual environment"]
    if (venv / UNFINISHED).exists() or not (venv / READY).exists():
        return ["its building was interrupted"]
    found = []
    built, there = read_record(venv), installed_packages(venv)
    if built is not None:
        if built.requirements != requirements_digest(project):
            found.append("pyproject.toml or constraints.txt changed since it was built")
        if Path(built.project) != project.resolve():
            found.append(f"it runs the code of another folder, {built.project}")
        lost = [p for p in built.packages if _normal(p.rpartition("-")[0]) not in there]
        if lost:
            found.append(f"{_counted(lost)} no longer there (scratch is purged after some time)")
    else:
        lost = [name for name in _dependencies(project) if name not in there]
        if lost:
            found.append(f"{_counted(lost)} not installed")
    pins = _pins(project)
    other = [
        f"{name} {version} instead of {pins[name]}"
        for name, version in there.items()
        if name in pins and version.partition("+")[0] != pins[name]
    ]
    if other:
        found.append(_counted(other))
    return found


def damaged_files(venv: Path) -> list[Path]:
    """Files of installed packages that are missing or have another size; 70,000 are looked at."""
    damaged = []
    for folder in _metadata_folders(venv):
        try:
            with (folder / "RECORD").open(encoding="utf-8", newline="") as stream:
                listed = [(row[0], row[2]) for row in csv.reader(stream) if len(row) == 3]
        except OSError:
            damaged.append(folder / "RECORD")
            continue
        for name, size in listed:
            path = folder.parent / name
            try:
                is_whole = path.stat().st_size == int(size) if size else True
            except OSError:
                # Compiled files are no part of a package, and come back by themselves.
                is_whole = name.endswith(".pyc")
            if not is_whole:
                damaged.append(path)
    return damaged


def count_files(folder: Path) -> tuple[int, int]:
    """How many files are below a folder, and their bytes."""
    files = size = 0
    for place, _, names in os.walk(folder):
        files += len(names)
        size += sum(os.lstat(os.path.join(place, name)).st_size for name in names)  # noqa: PTH118
    return files, size


def cache_folders() -> dict[str, tuple[Path, bool]]:
    """Where each cache is, by its variable, and whether the variable is set."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    default = {
        "XDG_CACHE_HOME": home,
        "HF_HOME": home / "huggingface",
        "PIP_CACHE_DIR": home / "pip",
    }
    return {
        name: (
            Path(os.path.expandvars(os.environ.get(name) or default[name])).expanduser(),
            bool(os.environ.get(name)),
        )
        for name in CACHE_VARIABLES
    }


def _metadata_folders(venv: Path) -> Iterator[Path]:
    return iter(sorted(venv.glob("lib/python3*/site-packages/*.dist-info")))


def _dependencies(project: Path) -> list[str]:
    lines = _pyproject(project).get("project", {}).get("dependencies", [])
    return [_normal(re.split(r"[\s<>=!~;\[]", line)[0]) for line in lines]


def _pyproject(project: Path) -> dict[str, Any]:
    # A rule of the linter stands there as well; only the parts about packages are asked for.
    try:
        return tomllib.loads(_text(project / "pyproject.toml"))
    except ValueError as error:
        raise UserError(f"{project / 'pyproject.toml'}: not valid TOML: {error}") from None


def _pins(project: Path) -> dict[str, str]:
    found = {}
    for line in _text(project / "constraints.txt").splitlines():
        name, is_pinned, version = line.partition("#")[0].strip().partition("==")
        if is_pinned:
            found[_normal(name)] = version
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; is this the project's folder?") from None


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _counted(names: list[str]) -> str:
    return names[0] + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
