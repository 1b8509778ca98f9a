"""What decides the answers of a run, flat and plain: the keys of its fingerprint.

Put together from the model, the task and its options, and one config of an experiment's grid; see
docs/workflow.md for where each key comes from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fastdllm.common.errors import UserError
from fastdllm.model.checkpoint import local_folder
from fastdllm.model.config import ModelShape, read_shape
from fastdllm.records.summary import DECODING, PARAMETERS
from fastdllm.tasks.task_files import TaskFiles, find_task_files
from fastdllm.tasks.task_source import TaskSource
from fastdllm.version import DECODER_VERSION
from fastdllm.workflow.project.computations import is_generating_task, is_likelihood_task
from fastdllm.workflow.project.config_files import ExperimentConfig, WorkflowConfig
from fastdllm.workflow.project.digests import (
    FileDigests,
    model_digest,
    task_digests,
)
from fastdllm.workflow.project.grid import Config

# Options of a task that say only where its data is, who runs it, and how the work is split.
UNDECIDING_OPTIONS = {"data", "batch_size", "shards", "group", "only_where_named"}


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What runs need to know of the model: its identity, and its shape if it is on this machine."""

    decides: dict[str, Any]
    shape: ModelShape | None


@dataclass(frozen=True, slots=True)
class TaskIdentity:
    """What runs need to know of a task: what it is made of, and what it asks for.

    definition: digest of it without its data.
    is_likelihood, is_generating: whether it certainly asks for nothing else.
    overrules: the decoding settings that do not count for it, each with the key that wins.
    """

    name: str
    digest: str
    definition: str
    is_likelihood: bool
    is_generating: bool
    overrules: Mapping[str, str]


def read_task(source: TaskSource, digests: FileDigests) -> TaskIdentity:
    """Read the files of an enabled task.

    Raises:
        UserError: one of them is missing or broken.
    """
    files = find_task_files(source)
    is_likelihood = is_likelihood_task(files)
    overrules = {} if is_likelihood else _overruled_settings(files)
    of_files = task_digests(files, digests)
    return TaskIdentity(
        source.name,
        of_files.whole,
        of_files.definition,
        is_likelihood=is_likelihood,
        is_generating=is_generating_task(files),
        overrules=overrules,
    )


def _overruled_settings(files: TaskFiles) -> dict[str, str]:
    overruled = {"max_new_tokens": "max_gen_toks"}  # every task that generates has to give it
    for _, values in files.layers:
        wishes = values.get("generation_kwargs")
        if not isinstance(wishes, Mapping):
            continue
        if wishes.get("do_sample") is False:
            overruled |= dict.fromkeys(("temperature", "top_p"), "do_sample: false")
        overruled |= {key: key for key in ("temperature", "top_p") if wishes.get(key) is not None}
    return overruled


def check_overruled(
    task: TaskIdentity, experiment: ExperimentConfig, configs: Iterable[Config], where: str
) -> None:
    """Refuse settings of an experiment that a task overrules: its configs would not do them.

    Raises:
        UserError: naming the setting, the task and the key that wins.
    """
    parts = experiment.parts().values()
    named = set(experiment.decoding.given())
    named = named.union(*(part.grid for part in parts), *(part.decoding.given() for part in parts))
    if any(config.settings.temperature > 0 for config in configs):
        named.add("temperature")
    for key in sorted(named & task.overrules.keys()):
        raise UserError(
            f"{where}: {key} has no effect on task {task.name!r}, whose generation_kwargs give "
            f"{task.overrules[key]}, which wins; take one of the two out, or the task (tasks: ...)"
        )


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
    """The part that all configs on one task share.

    Raises:
        UserError: an option has no effect on the task.
    """
    given = config.task_options(task.name)
    options = given.model_dump(exclude=UNDECIDING_OPTIONS)
    if task.is_generating:
        if "likelihood_mode" in given.model_fields_set:
            raise UserError(
                f"task {task.name!r}: likelihood_mode has no effect, as the task only generates; "
                "take it out of workflow_config.yaml (or of metadata.options in the task's file)"
            )
        # So in results from before another mode became the default.
        options["likelihood_mode"] = "published"
    return {
        **model.decides,
        "dtype": config.model.dtype,
        "decoder_version": DECODER_VERSION,
        "task": task.name,
        "task_digest": task.digest,
        **options,
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
