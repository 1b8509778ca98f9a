"""What decides the answers of a run, flat and plain: the keys of its fingerprint.

Put together from the model, the task and its options, and one config of an experiment's grid; see
docs/workflow.md for where each key comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastdllm.common.errors import UserError
from fastdllm.model.checkpoint import local_folder
from fastdllm.model.config import ModelShape, read_shape
from fastdllm.results.summary import DECODING, PARAMETERS
from fastdllm.tasks.task_files import find_task_files
from fastdllm.version import DECODER_VERSION
from fastdllm.workflow.project.computations import is_likelihood_task
from fastdllm.workflow.project.config_files import WorkflowConfig, task_file
from fastdllm.workflow.project.digests import (
    FileDigests,
    model_digest,
    task_files_digest,
)
from fastdllm.workflow.project.grid import Config

# Options of a task that say only how the work is split.
UNDECIDING_OPTIONS = {"batch_size", "shards", "group"}


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What runs need to know of the model: its identity, and its shape if it is on this machine."""

    decides: dict[str, Any]
    shape: ModelShape | None


@dataclass(frozen=True, slots=True)
class TaskIdentity:
    """What runs need to know of a task: what it is made of, and whether it generates at all."""

    name: str
    digest: str
    is_likelihood: bool


def read_task(name: str, digests: FileDigests) -> TaskIdentity:
    """Read the files of an enabled task.

    Raises:
        UserError: one of them is missing or broken.
    """
    files = find_task_files(task_file(name))
    return TaskIdentity(name, task_files_digest(files, digests), is_likelihood_task(files))


def read_model(config: WorkflowConfig, digests: FileDigests) -> ModelIdentity:
    """Identify the model that every run decodes with.

    Raises:
        UserError: no such model, or a revision of a folder.
    """
    path = config.model.path
    folder = local_folder(path)
    if folder is None:
        revision = config.model.revision or "main"
        return ModelIdentity({"model": path, "model_digest": revision}, shape=None)
    if config.model.revision is not None:
        raise UserError(
            f"workflow_config.yaml: model.revision: {config.model.revision!r} has no meaning for "
            f"the folder {path}; set it to null"
        )
    return ModelIdentity(
        {"model": "local", "model_digest": model_digest(folder, digests)}, read_shape(folder)
    )


def task_decides(
    config: WorkflowConfig, model: ModelIdentity, task: TaskIdentity
) -> dict[str, Any]:
    """The part that all configs on one task share."""
    return {
        **model.decides,
        "dtype": config.model.dtype,
        "decoder_version": DECODER_VERSION,
        "task": task.name,
        "task_digest": task.digest,
        **config.task_options(task.name).model_dump(exclude=UNDECIDING_OPTIONS),
    }


def plan_decides(
    config: WorkflowConfig, model: ModelIdentity, task: TaskIdentity
) -> dict[str, Any]:
    """What a plan depends on: it holds token ids in chunks, so no decoding setting or policy."""
    exclude = {"likelihood_mode", *UNDECIDING_OPTIONS}
    options = config.task_options(task.name).model_dump(exclude=exclude)
    return {**model.decides, "task": task.name, "task_digest": task.digest, **options}


def config_decides(config: Config) -> dict[str, Any]:
    """The part of one config."""
    decoding, parameters = config.decoding, config.policy_parameters
    return {
        # The name under which summaries report the seed of sampling.
        "seed": decoding["seed"],
        **{f"{DECODING}{key}": value for key, value in decoding.items()},
        **{f"{PARAMETERS}{key}": value for key, value in parameters.items()},
    }
