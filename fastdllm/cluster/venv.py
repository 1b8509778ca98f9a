"""The virtual environment: its record, whether it is complete, and whether it is the project's.

scripts/setup.sh writes the record; this only reads. Uses the standard library alone and imports no
package of the environment, so that it can describe a broken one.
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
from fastdllm.common.paths import cache_home, expanded

RECORD = ".fastdllm-env.json"
# Exists once all packages are installed; `make` compares its date.
READY = ".ready"
# Exists while packages are being installed; left over, it means that the installation was killed.
UNFINISHED = ".unfinished"


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
    """Read what scripts/setup.sh wrote into an environment; None without a valid record."""
    try:
        record = read_json(venv / RECORD)
        return Built(**{**record, "packages": tuple(record["packages"])})
    except (UserError, TypeError, KeyError):
        return None


def requirements_digest(project: Path) -> str:
    """Return the digest of the packages that pyproject.toml and constraints.txt ask for.

    Raises:
        UserError: one of them is missing or broken.
    """
    pyproject = _pyproject(project)
    parts = [pyproject.get("build-system"), pyproject.get("project")]
    parts.append(pyproject.get("tool", {}).get("setuptools"))
    parts.append(sorted(_pins(project).items()))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def environment_name(project: Path, python: str) -> str:
    """Return the folder name of an environment on scratch.

    It differs by project folder, as an environment runs the code of one, and by version of Python
    (`3.11`), as packages are built for one.
    """
    text = f"{requirements_digest(project)} {project.resolve()} {python}"
    return f"venv-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def installed_packages(venv: Path) -> dict[str, str]:
    """Return the version of each package by its normalized name (`huggingface-hub`)."""
    return {
        _normal(name): version
        for folder in _metadata_folders(venv)
        for name, _, version in [folder.name.removesuffix(".dist-info").rpartition("-")]
    }


def problems(venv: Path, project: Path) -> list[str]:
    """Return what is wrong with an environment, without reading its packages; empty if nothing.

    Raises:
        UserError: pyproject.toml or constraints.txt is missing or broken.
    """
    if not (venv / "bin" / "python").exists():
        return [f"{venv} is not a virtual environment"]
    if (venv / UNFINISHED).exists() or not (venv / READY).exists():
        return ["its installation was interrupted"]
    faults = []
    built, installed = read_record(venv), installed_packages(venv)
    if built is not None:
        if built.requirements != requirements_digest(project):
            faults.append("pyproject.toml or constraints.txt changed since it was built")
        if Path(built.project) != project.resolve():
            faults.append(f"it runs the code of another folder, {built.project}")
        absent = [p for p in built.packages if _normal(p.rpartition("-")[0]) not in installed]
        if absent:
            faults.append(f"{_counted(absent)} no longer there (scratch is purged after some time)")
    else:
        absent = [name for name in _dependencies(project) if name not in installed]
        if absent:
            faults.append(f"{_counted(absent)} not installed")
    pins = _pins(project)
    unpinned = [
        f"{name} {version} instead of {pins[name]}"
        for name, version in installed.items()
        if name in pins and version.partition("+")[0] != pins[name]
    ]
    if unpinned:
        faults.append(_counted(unpinned))
    return faults


def damaged_files(venv: Path) -> list[Path]:
    """Return the files of installed packages that are missing or have another size."""
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
                found = path.stat().st_size if size else None
                # Scripts beside the packages name their environment, in a copy another one.
                is_whole = found is None or name.startswith("../") or found == int(size)
            except OSError:
                # Python compiles missing .pyc files again.
                is_whole = name.endswith(".pyc")
            if not is_whole:
                damaged.append(path)
    return damaged


def count_files(folder: Path) -> tuple[int, int]:
    """Return how many files are below a folder, and their bytes."""
    files = size = 0
    for place, _, names in os.walk(folder):
        files += len(names)
        size += sum(os.lstat(os.path.join(place, name)).st_size for name in names)  # noqa: PTH118
    return files, size


def cache_folders() -> dict[str, tuple[Path, bool]]:
    """Return where each cache is, by its variable, and whether the variable is set."""
    defaults = default_caches(cache_home())
    return {
        name: (
            expanded(os.path.expandvars(os.environ.get(name) or default)),
            bool(os.environ.get(name)),
        )
        for name, default in defaults.items()
    }


def default_caches(home: Path) -> dict[str, Path]:
    """Return the folder of each cache, by its variable, in a cache folder."""
    return {"XDG_CACHE_HOME": home, "HF_HOME": home / "huggingface", "PIP_CACHE_DIR": home / "pip"}


def _metadata_folders(venv: Path) -> Iterator[Path]:
    return iter(sorted(venv.glob("lib/python3*/site-packages/*.dist-info")))


def _dependencies(project: Path) -> list[str]:
    lines = _pyproject(project).get("project", {}).get("dependencies", [])
    return [_normal(re.split(r"[\s<>=!~;\[]", line)[0]) for line in lines]


def _pyproject(project: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_text(project / "pyproject.toml"))
    except ValueError as error:
        raise UserError(f"{project / 'pyproject.toml'}: not valid TOML: {error}") from None


def _pins(project: Path) -> dict[str, str]:
    lines = _text(project / "constraints.txt").splitlines()
    pins = (line.partition("#")[0].strip().partition("==") for line in lines)
    return {_normal(name): version for name, is_pinned, version in pins if is_pinned}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; is this the project's folder?") from None


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _counted(names: list[str]) -> str:
    return names[0] + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
