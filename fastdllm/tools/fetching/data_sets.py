"""Download the data sets of tasks into the cache.

lm-eval and `datasets` load and cache them, exactly as planning and scoring do. Import this module
only within `lm_eval_environment`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastdllm.common.files import cannot
from fastdllm.tasks.lm_eval_tasks import LoadedTask, load_task
from fastdllm.tasks.task_source import TaskSource


def fetch_data(task: TaskSource) -> list[dict[str, Any]]:
    """Load a task online; return the files (path, bytes, sha256) that its data was put into.

    Raises:
        UserError: the task or its data cannot be loaded.
    """
    return [_described(path) for path in sorted(_files(load_task(task)))]


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
