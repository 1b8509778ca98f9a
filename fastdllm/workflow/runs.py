"""Runs: every (experiment, task, config) of the project, with its paths and its fingerprint.

`load_project` reads the configuration, checks all of it and expands it; nothing here looks at
results (see status.py) or writes any (see reconcile.py). Imports no torch: a node without a GPU, or
`fastdllm status`, needs a fraction of a second.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastdllm.errors import UserError
from fastdllm.policy import load_policy, policy_code_digest
from fastdllm.version import DECODER_VERSION
from fastdllm.workflow.config import (
    EXPERIMENTS,
    ExperimentConfig,
    WorkflowConfig,
    experiment_file,
    load_experiment_config,
    load_workflow_config,
    task_file,
)
from fastdllm.workflow.digests import (
    FileDigests,
    ModelShape,
    digest_of,
    model_digest,
    model_folder,
    model_shape,
    task_digest,
)
from fastdllm.workflow.grid import Config, expand_grid
from fastdllm.workflow.names import task_folder
from fastdllm.workflow.selection import Selection, keep

SCHEMA_VERSION = 1
RESULTS = Path("results")
PLANS = RESULTS / "_plans"
LOGS = Path("logs")
ARTIFACTS = Path("artifacts")


@dataclass(frozen=True, slots=True)
class Run:
    """One config of one experiment on one task.

    decides: everything that decides the answers, flat, so that a change can be told key by key.
    surroundings: what a run needs besides: paths, device, batch size; not in the fingerprint.
    """

    experiment: str
    task: str
    config: str
    limit: int | None
    decides: dict[str, Any] = field(repr=False)
    surroundings: dict[str, Any] = field(repr=False)
    fingerprint: str

    @property
    def task_folder(self) -> str:
        return task_folder(self.task, self.limit)

    @property
    def folder(self) -> Path:
        return RESULTS / self.experiment / self.task_folder / self.config

    @property
    def spec_path(self) -> Path:
        return self.folder / "spec.json"

    @property
    def summary_path(self) -> Path:
        return self.folder / "summary.json"

    @property
    def answers_path(self) -> Path:
        return self.folder / "answers.jsonl"

    @property
    def plan_folder(self) -> Path:
        return PLANS / self.task_folder

    @property
    def log_path(self) -> Path:
        return LOGS / "eval" / self.experiment / self.task_folder / f"{self.config}.log"

    @property
    def artifact_path(self) -> Path:
        return ARTIFACTS / self.experiment / self.task_folder / self.config / "summary.json"

    def spec(self) -> dict[str, Any]:
        """The content of spec.json: all that `fastdllm eval` is told."""
        return {
            "schema_version": SCHEMA_VERSION,
            "experiment": self.experiment,
            "task": self.task,
            "config": self.config,
            "limit": self.limit,
            "fingerprint": self.fingerprint,
            "decides": self.decides,
            "run": self.surroundings,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan that all runs of one task share, and what it depends on."""

    task: str
    limit: int | None
    decides: dict[str, Any] = field(repr=False)

    @property
    def task_folder(self) -> str:
        return task_folder(self.task, self.limit)

    @property
    def spec_path(self) -> Path:
        return PLANS / self.task_folder / "spec.json"

    @property
    def plan_path(self) -> Path:
        return PLANS / self.task_folder / "plan.json"

    @property
    def made_from_path(self) -> Path:
        """The spec that the plan on disk was made from, copied by the plan rule."""
        return PLANS / self.task_folder / "made_from.json"

    def spec(self) -> dict[str, Any]:
        """What the plan is made from; another content makes the plan invalid."""
        return {"schema_version": SCHEMA_VERSION, "decides": self.decides}


@dataclass(frozen=True, slots=True)
class Project:
    """The selected runs of a project, in the order of its configuration; all_runs: every one."""

    config: WorkflowConfig
    experiments: dict[str, ExperimentConfig]
    runs: tuple[Run, ...]
    all_runs: tuple[Run, ...]
    plans: tuple[Plan, ...]


@dataclass(frozen=True, slots=True)
class _Model:
    """What runs need to know of the model: its identity, and its shape where it is at hand."""

    decides: dict[str, Any]
    shape: ModelShape | None


def load_project(selection: Selection | None = None) -> Project:
    """Read, check and expand the project in the current folder.

    The whole configuration is checked even when the selection is small: a mistake is told at once.

    Raises:
        UserError: any mistake in the configuration or the selection.
    """
    selection = selection or Selection()
    config = load_workflow_config()
    digests = FileDigests.load()
    model = _model(config, digests)
    tasks = {task: task_digest(task_file(task), digests) for task in config.tasks}
    experiments = {name: load_experiment_config(name) for name in config.experiments}
    runs = [
        run
        for name, experiment in experiments.items()
        for run in _expand(
            name, experiment, config=config, model=model, tasks=tasks, limit=selection.limit
        )
    ]
    digests.save()
    all_runs = tuple(runs)
    runs = _selected(runs, selection, config)
    planned = {run.task for run in runs}
    plans = tuple(
        Plan(task, selection.limit, _plan_decides(config, model, task=task, digest=tasks[task]))
        for task in config.tasks
        if task in planned
    )
    return Project(
        config=config, experiments=experiments, runs=tuple(runs), all_runs=all_runs, plans=plans
    )


def _model(config: WorkflowConfig, digests: FileDigests) -> _Model:
    path = config.model.path
    folder = model_folder(path)
    if folder is None:
        revision = config.model.revision or "main"
        return _Model({"model": path, "model_digest": revision}, shape=None)
    if config.model.revision is not None:
        raise UserError(
            f"workflow_config.yaml: model.revision: {config.model.revision!r} has no meaning for "
            f"the folder {path}; set it to null"
        )
    return _Model(
        {"model": "local", "model_digest": model_digest(folder, digests)}, model_shape(folder)
    )


def _expand(
    name: str,
    experiment: ExperimentConfig,
    *,
    config: WorkflowConfig,
    model: _Model,
    tasks: dict[str, str],
    limit: int | None,
) -> list[Run]:
    where = str(experiment_file(name))
    policy_file = EXPERIMENTS / name / experiment.policy
    policy = load_policy(policy_file)
    configs = expand_grid(
        experiment,
        policy=policy,
        defaults=config.decoding.given(),
        shape=model.shape,
        where=where,
    )
    policy_decides = {"policy": policy.__name__, "policy_digest": policy_code_digest(policy_file)}
    runs = []
    for task in keep("task", experiment.tasks, config.tasks, where=f"{where}: tasks"):
        surroundings = {
            "task_file": str(task_file(task)),
            "policy_file": str(policy_file),
            "plan_folder": str(PLANS / task_folder(task, limit)),
            "model_path": config.model.path,
            "model_revision": config.model.revision,
            "device": config.model.device,
            "bootstrap_iters": config.bootstrap_iters,
            "batch_size": config.task_options(task).batch_size,
        }
        shared = {**_task_decides(config, model, task=task, digest=tasks[task]), **policy_decides}
        for point in configs:
            decides = {**shared, "limit": limit, **_config_decides(point)}
            runs.append(
                Run(
                    experiment=name,
                    task=task,
                    config=point.name,
                    limit=limit,
                    decides=decides,
                    surroundings=surroundings,
                    fingerprint=digest_of(decides),
                )
            )
    return runs


def _task_decides(
    config: WorkflowConfig, model: _Model, *, task: str, digest: str
) -> dict[str, Any]:
    return {
        **model.decides,
        "dtype": config.model.dtype,
        "decoder_version": DECODER_VERSION,
        "task": task,
        "task_digest": digest,
        **config.task_options(task).model_dump(exclude={"batch_size"}),
    }


def _plan_decides(
    config: WorkflowConfig, model: _Model, *, task: str, digest: str
) -> dict[str, Any]:
    """A plan holds token ids in chunks: no decoding setting, dtype or policy counts."""
    options = config.task_options(task).model_dump(exclude={"likelihood_mode", "batch_size"})
    return {**model.decides, "task": task, "task_digest": digest, **options}


def _config_decides(config: Config) -> dict[str, Any]:
    # `seed` is the name under which summaries report the seed of sampling.
    return {
        "seed": config.decoding["seed"],
        **{f"decoding.{key}": value for key, value in config.decoding.items()},
        **{f"policy_parameters.{key}": value for key, value in config.policy_parameters.items()},
    }


def _selected(runs: list[Run], selection: Selection, config: WorkflowConfig) -> list[Run]:
    experiments = keep("experiment", selection.experiments, config.experiments)
    tasks = keep("task", selection.tasks, config.tasks)
    left = [run for run in runs if run.experiment in experiments and run.task in tasks]
    configs = set(keep("config", selection.configs, dict.fromkeys(run.config for run in left)))
    return [run for run in left if run.config in configs]
