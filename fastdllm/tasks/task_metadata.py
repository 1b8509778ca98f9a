"""What the file of a task says of itself under `metadata`, which lm-eval only keeps.

options: what workflow_config.yaml need not say (`TaskOptions`, which are checked there).
source: the data set of the hub that its files come from.
"""

from __future__ import annotations

from typing import Any

from fastdllm.common.errors import UserError
from fastdllm.tasks.task_files import Folder, merged_keys, metadata_of
from fastdllm.tasks.task_source import TaskSource

OPTIONS = "options"


def own_options(source: TaskSource) -> Any:
    """Return `metadata.options` of a task as written; {} if it has none.

    Those in the file of a group count for it; without any, those that its subtasks share do.

    Raises:
        UserError: a file is missing or broken, or subtasks of a group have different options.
    """
    folder = Folder(source.file.parent)
    own = metadata_of(merged_keys(folder.layers(source.file)))
    if OPTIONS in own:
        return own[OPTIONS]
    options = [
        metadata_of(values).get(OPTIONS, {}) for _, values in folder.single_tasks(source.file)
    ]
    if any(other != options[0] for other in options):
        raise UserError(
            f"{source.file}: its subtasks have different metadata.options; give the group its own"
        )
    return options[0] if options else {}
