"""Which tasks of lm-eval's command line are this project's, and where their data is.

Imports neither torch nor lm-eval, whose environment depends on that.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastdllm.common.errors import UserError
from fastdllm.common.paths import TASKS
from fastdllm.tasks.task_source import TaskSource
from fastdllm.workflow.project.config_files import (
    WORKFLOW_CONFIG,
    WorkflowConfig,
    load_workflow_config,
)


def task_names(tasks: Any) -> list[str]:
    """Return the names of tasks as lm-eval takes them: separated by commas, or in a list."""
    words: Sequence[Any] = [tasks] if isinstance(tasks, str) else list(tasks or [])
    return [name for word in words for name in str(word).split(",")]


def own_tasks(names: Sequence[str], config: WorkflowConfig | None) -> dict[str, TaskSource]:
    """Return those of the tasks that are in tasks/, read from where the workflow reads them.

    Raises:
        UserError: a pattern matches some of them, which lm-eval would load by its own rules.
    """
    own = {}
    stems = sorted(file.stem for file in TASKS.glob("*.yaml"))
    for name in names:
        path = Path(name)
        is_here = path.suffix == ".yaml" and path.parent.resolve() == TASKS.resolve()
        stem = path.stem if is_here else name
        matching = [] if stem in stems else fnmatch.filter(stems, stem)
        if matching:
            raise UserError(
                f"--tasks {name}: matches {', '.join(matching)} in {TASKS}/; name each task"
            )
        source = TaskSource.named(stem)
        if config is not None and stem in config.tasks:
            source = config.task_source(stem)
        if source.file.is_file():
            own[name] = source
    return own


def workflow_config() -> WorkflowConfig | None:
    """Return the configuration of this project; None outside of one.

    Raises:
        UserError: it cannot be read.
    """
    return load_workflow_config() if WORKFLOW_CONFIG.is_file() else None
