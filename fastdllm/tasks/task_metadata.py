"""What the file of a task says of itself under `metadata`, which lm-eval only keeps.

options: what workflow_config.yaml need not say (`TaskOptions`, which are checked there).
source: the data set of the hub that its files come from (`HubSource`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from fastdllm.common.errors import UserError
from fastdllm.common.paths import expanded
from fastdllm.tasks.data_files import texts
from fastdllm.tasks.task_files import Folder, merged_keys
from fastdllm.tasks.task_source import SOURCE, TaskSource, kwargs_of, metadata_of
from fastdllm.validation import StrictModel, validated

OPTIONS = "options"


class RawFile(StrictModel):
    """A file of a data set's repository, taken as it is."""

    file: str


class HubSource(StrictModel):
    """A data set of the hub, and the files that its rows are written to.

    files: by name within `data_dir`: a split, several one after the other, or a raw file.
    """

    repo: str
    config: str | None = None
    revision: str | None = None
    files: dict[str, str | Annotated[list[str], Field(min_length=1)] | RawFile] = Field(
        min_length=1
    )


@dataclass(frozen=True, slots=True)
class HubFile:
    """Where one file of a task comes from: splits of a data set, or a raw file."""

    repo: str
    config: str | None
    revision: str | None
    splits: tuple[str, ...]
    raw: str | None


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


def hub_files(source: TaskSource) -> dict[Path, HubFile]:
    """Return where the files of a task, or of all tasks of a group, come from.

    Raises:
        UserError: a file of the task is broken, or `metadata.source` is wrong.
    """
    found: dict[Path, HubFile] = {}
    for task, values in Folder(source.file.parent).single_tasks(source.file):
        if SOURCE not in metadata_of(values):
            continue
        where = f"{task}: metadata.{SOURCE}"
        hub = validated(HubSource, metadata_of(values)[SOURCE], where)
        folder = kwargs_of(values).get("data_dir")
        if not isinstance(folder, str):
            raise UserError(f"{where}: needs dataset_kwargs.data_dir, where its files are put")
        for name, origin in hub.files.items():
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise UserError(f"{where}: files: {name!r} is not within data_dir")
            raw = origin.file if isinstance(origin, RawFile) else None
            file = HubFile(hub.repo, hub.config, hub.revision, tuple(texts(origin)), raw)
            if found.setdefault(path := expanded(folder) / name, file) != file:
                raise UserError(f"{where}: files: another subtask has another source of {path}")
    return found
