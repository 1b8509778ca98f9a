"""Download the data sets of tasks into the cache, and check that they load without a network.

lm-eval and `datasets` load and cache them, exactly as planning and scoring do. Import this module
only within `lm_eval_environment`.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastdllm.common.errors import UserError
from fastdllm.common.files import cannot
from fastdllm.tasks.lm_eval_tasks import LoadedTask, load_task

# Planning two items renders prompts, and builds filters and metrics; all data is loaded anyway.
_ITEMS = "2"


def fetch_data(task: str, tasks_folder: Path) -> list[dict[str, Any]]:
    """Load a task online; return the files (path, bytes, sha256) that its data was put into.

    Raises:
        UserError: the task or its data cannot be loaded.
    """
    return [_described(path) for path in sorted(_files(load_task(task, tasks_folder)))]


def prove_offline(task: str) -> None:
    """Plan two items of a task in a process that may not use the network.

    Raises:
        UserError: that failed, so jobs would fail as well.
    """
    with tempfile.TemporaryDirectory(prefix="fastdllm-fetch-") as folder:
        command = [sys.executable, "-m", "fastdllm", "plan", "--task", task, "--limit", _ITEMS]
        completed = subprocess.run(
            [*command, "--output", folder],
            env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    if completed.returncode:
        lines = completed.stderr.strip().splitlines() or [f"exit code {completed.returncode}"]
        reason = lines[-1].removeprefix("fastdllm: ")
        raise UserError(
            f"task {task!r}: was fetched, but does not load without a network ({reason}); a task "
            "that reads a web address needs its data as a local file"
        )


def _files(task: LoadedTask) -> Iterator[Path]:
    for leaf in task.leaves.values():
        splits = getattr(leaf, "dataset", None) or {}
        for split in splits.values():
            for file in getattr(split, "cache_files", ()):
                yield Path(file["filename"])


def _described(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return {"path": str(path), "bytes": path.stat().st_size, "sha256": digest}
    except OSError as error:
        raise cannot("read", path, error) from None
