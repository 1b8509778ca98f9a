"""Where a run happens: the process environment that lm-eval needs, and what is recorded of it.

`prepare` must run before lm-eval, datasets or transformers are imported, because they read their
environment variables once. Everything else here only describes.
"""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastdllm.common.errors import UserError
from fastdllm.evaluation.task_files import find_task_files
from fastdllm.version import __version__

# A new file in one of these can decide a result.
DECIDING_FOLDERS = ("experiments", "tasks", "fastdllm")
RECORDED_PACKAGES = ("torch", "transformers", "tokenizers", "lm_eval", "datasets", "numpy")


@contextmanager
def prepare(*, offline: bool, private_cache: bool) -> Iterator[None]:
    """Quieten lm-eval and keep it from the network; the user's own variables win.

    offline: no attempt to reach the hub (even local data tries it otherwise).
    private_cache: data sets are cached in a folder of this process only. `datasets` recognises a
        local file by path, time and size, so a shared cache can return rows of an older file.

    Raises:
        UserError: no temporary folder can be made.
    """
    defaults = {"TQDM_DISABLE": "1", "LMEVAL_LOG_LEVEL": "ERROR", "TOKENIZERS_PARALLELISM": "false"}
    defaults |= {"HF_HUB_DISABLE_TELEMETRY": "1", "TRANSFORMERS_VERBOSITY": "error"}
    if offline:
        defaults["HF_HUB_OFFLINE"] = "1"
    try:
        own = TemporaryDirectory(prefix="fastdllm-datasets-", ignore_cleanup_errors=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"no temporary folder: {reason}; set TMPDIR to one with room") from None
    with own as cache:
        if private_cache:
            defaults["HF_DATASETS_CACHE"] = cache
        for name, value in defaults.items():
            os.environ.setdefault(name, value)
        yield


def data_is_local(task: str, tasks_folder: Path | str = "tasks") -> bool:
    """Whether a task, or each member of a group, reads local files only."""
    path = Path(tasks_folder) / f"{task}.yaml"
    if not path.is_file():
        return False
    try:
        return find_task_files(path).is_local
    except UserError:
        return True  # load_task says what is wrong with it; that needs no network either


def package_versions() -> dict[str, str]:
    """Versions of Python, of this project and of the packages that decide results."""
    found = {"python": platform.python_version(), "fastdllm": __version__}
    for name in RECORDED_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_state(folder: Path | str = ".") -> dict[str, Any] | None:
    """Commit of the project and whether its files differ from it; None outside of git.

    Files that git does not track count where they decide results. artifacts/ does not count:
    publishing a result must not mark the next one as dirty.
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


def cpu_name() -> str:
    """The processor's name as the operating system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux: the platform module knows less, but something
    return platform.processor() or platform.machine()


def host_name() -> str:
    return socket.gethostname()


def process_peak_memory_gib() -> float:
    """Most memory this process has held so far (resident set), in GiB."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts KiB, macOS bytes.
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def reset_process_peak_memory() -> None:
    """Let `process_peak_memory_gib` count from now on, where the system can (Linux)."""
    try:
        # 5 sets the peak of the resident set to what is resident now; see proc(5).
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return  # the peak stays that of the whole process, as its kind in the summary says
