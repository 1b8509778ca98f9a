"""Which tasks of lm-eval's command line are this project's, and where their data is.

Imports neither torch nor lm-eval, whose environment depends on that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastdllm.common.errors import UserError
from fastdllm.tasks.task_files import find_task_files
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


def own_tasks(names: Sequence[str]) -> dict[str, TaskSource]:
    """Return those of the tasks that are files in tasks/, or files themselves."""
    is_file = {name: name.endswith(".yaml") for name in names}
    sources = {n: TaskSource(Path(n)) if is_file[n] else TaskSource.named(n) for n in names}
    return {name: source for name, source in sources.items() if source.file.is_file()}


def have_local_data(own: Mapping[str, TaskSource]) -> bool:
    """Whether all data of these tasks are local files.

    Raises:
        UserError: one is missing, or runs of the workflow read others.
    """
    config = workflow_config()
    is_local = True
    for name, source in own.items():
        options = config.tasks.get(name) if config is not None else None
        folder = options.data if options is not None else None
        if folder is None:
            is_local &= find_task_files(source).is_local
            continue
        try:
            found = find_task_files(source)
        except UserError:
            found = None
        wanted = find_task_files(TaskSource(source.file, folder))
        if found is None or _files(found.data) != _files(wanted.data):
            raise UserError(
                f"{WORKFLOW_CONFIG}: tasks.{name}.data: lm-eval does not read {folder}, but the "
                f"data_dir that {source.file} names; put a link to the folder there"
            )
        is_local &= found.is_local
    return is_local


def workflow_config() -> WorkflowConfig | None:
    """Return the configuration of this project; None outside of one.

    Raises:
        UserError: it cannot be read.
    """
    return load_workflow_config() if WORKFLOW_CONFIG.is_file() else None


def _files(data: Sequence[tuple[str, Path]]) -> set[Path]:
    return {path.resolve() for _, path in data}
