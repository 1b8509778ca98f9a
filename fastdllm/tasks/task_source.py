"""Where a task is: its file, and the folder of its data where the user named one.

Passed wherever a task is read, so that planning, scoring, digests and checks read the same data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdllm.common.errors import UserError
from fastdllm.common.paths import TASKS

# Builders of the `datasets` library that read the files named in the task file.
LOCAL_BUILDERS = ("json", "csv", "parquet", "arrow", "text", "pandas", "xml", "hdf5")
# The key of `metadata` that names the data set of the hub which the files come from.
SOURCE = "source"


@dataclass(frozen=True, slots=True)
class TaskSource:
    """Where a task, or a group of tasks, is read from.

    file: its YAML, of the same name.
    data: the folder of its data, in place of `dataset_kwargs.data_dir`; None: as its file says.
    """

    file: Path
    data: str | None = None

    @classmethod
    def named(cls, name: str) -> TaskSource:
        """Return the task of a name in tasks/."""
        return cls(TASKS / f"{name}.yaml")

    @property
    def name(self) -> str:
        return self.file.stem

    def with_data(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the merged keys of a single task, its data read from this folder.

        Raises:
            UserError: they name no folder that could be replaced.
        """
        if self.data is None:
            return dict(values)
        options = kwargs_of(values)
        is_local = values.get("dataset_path") in LOCAL_BUILDERS and not values.get("custom_dataset")
        if not is_local or not options.get("data_dir"):
            raise UserError(
                f"{self.data_key}: has no effect on task {values.get('task')!r}, whose files are "
                "not named within a folder (dataset_kwargs.data_dir); leave it out"
            )
        return {**values, "dataset_kwargs": {**options, "data_dir": self.data}}

    def check_folders(self, leaves: Iterable[Mapping[str, Any]]) -> None:
        """Refuse one folder in place of several, whose files may have the same names.

        Raises:
            UserError: naming two of them.
        """
        named = dict.fromkeys(str(o.get("data_dir")) for leaf in leaves if (o := kwargs_of(leaf)))
        if self.data is not None and len(named) > 1:
            raise UserError(
                f"{self.data_key}: one folder cannot replace those of all subtasks "
                f"({', '.join(list(named)[:2])}); leave it out, and put the data there"
            )

    def not_here(self, file: Path) -> UserError:
        """Build the error for a file that fetch can bring, or that the folder `data` lacks."""
        if self.data is not None:  # fetch brings nothing there
            return UserError(
                f"task {self.name!r}: {file}: no such file in the folder that `data` names; name "
                "the one that has it, or leave `data` out and type, on a node with network: "
                f"fastdllm fetch --task {self.name}"
            )
        return UserError(
            f"task {self.name!r}: {file}: no such file; on a node with network: fastdllm fetch "
            f"--task {self.name}, or name the folder that has it in workflow_config.yaml (tasks: "
            f"{self.name}: data: ...)"
        )

    @property
    def data_key(self) -> str:
        """Where the user names the folder."""
        return f"workflow_config.yaml: tasks.{self.name}.data"


def kwargs_of(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `dataset_kwargs` of the merged keys of a task; {} if it has none."""
    options = values.get("dataset_kwargs")
    return options if isinstance(options, Mapping) else {}


def metadata_of(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `metadata` of the merged keys of a task or a group; {} if it has none."""
    metadata = values.get("metadata")
    return metadata if isinstance(metadata, Mapping) else {}
