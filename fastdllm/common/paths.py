"""The folders of a project; the name of a task folder tells limited runs from full ones."""

from __future__ import annotations

import re
from pathlib import Path

RESULTS = Path("results")
LOGS = Path("logs")
ARTIFACTS = Path("artifacts")

PLANS = Path("results/_plans")

_LIMITED = re.compile(r"(?P<task>.+)_limit_(?P<limit>[1-9][0-9]*)")


def task_folder(task: str, limit: int | None) -> str:
    """The folder of a task: limited runs are kept apart from full ones."""
    return task if limit is None else f"{task}_limit_{limit}"


def split_task_folder(folder: str) -> tuple[str, int | None]:
    """The inverse of `task_folder`."""
    match = _LIMITED.fullmatch(folder)
    return (match["task"], int(match["limit"])) if match else (folder, None)
