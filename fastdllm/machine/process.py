"""This process: its host, processor and memory; its packages and the project's commit."""

from __future__ import annotations

import ctypes
import getpass
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fastdllm.version import __version__

# A new file in one of these can decide a result.
DECIDING_FOLDERS = ("experiments", "tasks", "fastdllm")
GIT_PATIENCE_S = 20
# M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h: blocks of up to 32 MiB, which is the most that
# glibc allows, are taken from its own memory, of which 64 MiB may be free at the end.
MALLOC_OPTIONS = ((-3, 32 * 2**20), (-1, 64 * 2**20))
# Set in hooks, and by people for another repository: git would describe that one.
ANOTHER_REPOSITORY = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
RECORDED_PACKAGES = ("torch", "transformers", "tokenizers", "lm_eval", "datasets", "numpy")


def host_name() -> str:
    """Return the name of this machine."""
    return socket.gethostname()


def cpu_name() -> str:
    """Return the processor's name as the operating system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux: the platform module knows less
    return platform.processor() or platform.machine()


def peak_resident_gib() -> float:
    """Return the most memory this process has held so far (resident set), in GiB."""
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts KiB, macOS bytes.
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def reset_peak_resident() -> None:
    """Forget the peak of the resident set so far, where the system can (Linux).

    Elsewhere it remains the peak of the whole process.
    """
    try:
        # 5 sets the peak to what is resident now; see proc(5).
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def return_freed_memory() -> bool:
    """Return freed pages to the system; False where the C library cannot (only glibc can).

    Packing weights frees each plain copy, but glibc keeps blocks of up to 32 MiB for later.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return False
    return bool(trim(0))


def keep_freed_memory() -> bool:
    """Keep freed blocks for the next ones; False where the C library cannot (only glibc can).

    By default it returns the end of its memory as soon as a few megabytes of it are free, and each
    pass of many sequences would ask the system for the same pages again (docs/performance.md).
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all(set_option(option, size) for option, size in MALLOC_OPTIONS)


def package_versions() -> dict[str, str]:
    """Return the versions of Python, of this project and of the packages that decide results."""
    versions = {"python": platform.python_version(), "fastdllm": __version__}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def user_name() -> str | None:
    """Return the name of this process's user; None for an id without one, as in containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the latter from Python 3.13 on
        return None


def git_state(folder: Path | str = ".", files: Iterable[Path] = ()) -> dict[str, Any] | None:
    """Return the project's `commit`, and `dirty`: whether its files differ from it.

    Untracked files count if they decide results. artifacts/ does not count: publishing a result
    must not mark the next one as dirty. None outside of git; of a repository that git does not
    read, such as one of another owner, `unknown`: why.

    files: others that decide, wherever they are.
    """
    top = Path(folder).resolve()
    inside = {str(f.relative_to(top)) for f in map(Path.resolve, files) if f.is_relative_to(top)}
    status = ("status", "--porcelain")
    try:
        commit = git_output(folder, "rev-parse", "HEAD")
        changes = git_output(
            folder, *status, "--untracked-files=no", "--", ".", ":(exclude)artifacts"
        )
        # Said aloud, as status.showUntrackedFiles of a user's git may hide new files.
        untracked = (*status, "--untracked-files=normal", "--", *DECIDING_FOLDERS, *sorted(inside))
        changes = changes or git_output(folder, "--literal-pathspecs", *untracked)
    except subprocess.CalledProcessError as error:
        lines = str(error.stderr).strip().splitlines() or [f"exit code {error.returncode}"]
        reason = lines[0].removeprefix("fatal: ")
        return None if reason.startswith("not a git repository") else {"unknown": reason}
    except subprocess.TimeoutExpired:
        return {"unknown": f"git gave no answer for {GIT_PATIENCE_S} s"}
    except OSError as error:
        places = (Path(folder).absolute(), *Path(folder).absolute().parents)
        if not any((place / ".git").exists() for place in places):
            return None
        return {"unknown": f"git cannot be started: {error.strerror}"}
    return {"commit": commit, "dirty": bool(changes)}


def commit_words(state: Mapping[str, Any] | None) -> str | None:
    """Return the commit of a `git_state`, "+changes" behind it if files differed."""
    if state is None:
        return None
    if "unknown" in state:
        return f"unknown ({state['unknown']})"
    return f"{state.get('commit')}{'+changes' * bool(state.get('dirty'))}"


def git_output(folder: Path | str, *arguments: str, stdin: str | None = None) -> str:
    """Return what git prints, without the blanks around it.

    Raises:
        subprocess.SubprocessError: git refused, or gave no answer in time.
        OSError: git cannot be started.
    """
    kept = {name: value for name, value in os.environ.items() if name not in ANOTHER_REPOSITORY}
    completed = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env={**kept, "LC_ALL": "C"},
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=GIT_PATIENCE_S,
        check=True,
    )
    return completed.stdout.strip()
