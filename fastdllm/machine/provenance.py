"""The provenance that is recorded with a result: package versions and the project's commit."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fastdllm.version import __version__

# A new file in one of these can decide a result.
DECIDING_FOLDERS = ("experiments", "tasks", "fastdllm")
RECORDED_PACKAGES = ("torch", "transformers", "tokenizers", "lm_eval", "datasets", "numpy")


def package_versions() -> dict[str, str]:
    """Return the versions of Python, of this project and of the packages that decide results."""
    versions = {"python": platform.python_version(), "fastdllm": __version__}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def git_state(folder: Path | str = ".") -> dict[str, Any] | None:
    """Return the project's commit and whether its files differ from it; None outside of git.

    Untracked files count if they decide results. artifacts/ does not count: publishing a result
    must not mark the next one as dirty.
    """
    status = ("status", "--porcelain")
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changes = _git(folder, *status, "--untracked-files=no", "--", ".", ":(exclude)artifacts")
        changes = changes or _git(folder, *status, "--", *DECIDING_FOLDERS)
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changes)}


def _git(folder: Path | str, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20, check=True
    )
    return done.stdout.strip()
