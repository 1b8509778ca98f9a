"""The folders of a project, and the names that become folders: experiments, tasks, configs.

A name can never leave its folder, hide, or be taken for another run: it starts with a letter or a
digit, and holds letters, digits, `_`, `.` and `-`, at most 100 of them. With a limit, the folder of
a task gets the ending `_limit_<n>`; a task's own name may not end like that.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from fastdllm.common.errors import UserError

RESULTS = Path("results")
LOGS = Path("logs")
ARTIFACTS = Path("artifacts")
TASKS = Path("tasks")
PLANS = RESULTS / "_plans"

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
# File systems allow 255; names get endings (a limit, a log's), and have to be read.
MOST_LETTERS = 100

_LIMITED = re.compile(r"(?P<task>.+)_limit_(?P<limit>[1-9][0-9]*)")


def check_code(folder: Path) -> None:
    """Refuse to work in a clone of the project with the code of another one.

    With the environment of another clone active, one would plan and the other decode, and the
    record would name the wrong commit.

    Raises:
        UserError: naming both.
    """
    there, running = (folder / "fastdllm").resolve(), Path(__file__).resolve().parents[1]
    if (there / "version.py").is_file() and there != running:
        raise UserError(
            f"the code that runs is {running}, not {there}; use this folder's own environment "
            "(make setup makes it): . .venv/bin/activate"
        )


def expanded(path: str | Path) -> Path:
    """Return a path with `~` replaced by the home folder.

    Raises:
        UserError: it is not known: HOME is not set and the user has no name, or `~name` is nobody.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"{path}: this home folder is not known; write the path in full, or "
            "export HOME=<a folder of yours>"
        ) from None


def cache_home() -> Path:
    """Return the folder of this user's caches.

    Raises:
        UserError: it is in the home folder, and there is none.
    """
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache")


def state_home() -> Path:
    """Return the folder of what programs remember for this user, such as typed lines.

    Raises:
        UserError: it is in the home folder, and there is none.
    """
    return expanded(os.environ.get("XDG_STATE_HOME") or "~/.local/state")


def task_folder(task: str, limit: int | None) -> str:
    """Return the name of a task's folder; limited runs are kept apart from full ones."""
    return task if limit is None else f"{task}_limit_{limit}"


def split_task_folder(folder: str) -> tuple[str, int | None]:
    """Return task and limit of a folder's name, the inverse of `task_folder`."""
    match = _LIMITED.fullmatch(folder)
    return (match["task"], int(match["limit"])) if match else (folder, None)


def check_name(name: str) -> str:
    """Return `name` unchanged; raise ValueError when it cannot be a folder's name."""
    if len(name) > MOST_LETTERS:
        raise ValueError(
            f"'{name[:20]}...' cannot be a name; it has {len(name)} letters, and at most "
            f"{MOST_LETTERS} are allowed"
        )
    if not re.fullmatch(NAME_PATTERN, name):
        raise ValueError(
            f"{name!r} cannot be a name; it should start with a letter or digit and hold only "
            "letters, digits, '_', '.' and '-'"
        )
    return name


def check_task_name(name: str) -> str:
    """`check_name`, and the name must not look like a limited task's folder."""
    if split_task_folder(name)[1] is not None:
        raise ValueError(f"{name!r} cannot be a task's name; '_limit_<n>' marks limited runs")
    return check_name(name)
