"""Runs: every (experiment, task, config) of the project, with its paths and its fingerprint.

`load_project` reads the configuration, checks all of it and expands it; nothing here looks at
results (see workflow/status) or writes any (see reconcile.py). Imports no torch, so that a node
without a GPU, or `fastdllm status`, needs a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fastdllm.common.files import json_object
from fastdllm.common.paths import ARTIFACTS, LOGS, PLANS, RESULTS, task_folder
from fastdllm.decoding.policy_files import load_policy
from fastdllm.decoding.user_code import policy_code_digest
from fastdllm.runs.progress import read_failure
from fastdllm.tasks.plan import MADE_FROM, planned_notices
from fastdllm.workflow.project.computations import (
    computation_of,
    normal_in_generation,
    normal_in_likelihoods,
)
from fastdllm.workflow.project.config_files import (
    EXPERIMENTS,
    ExperimentConfig,
    WorkflowConfig,
    experiment_file,
    load_experiment_config,
    load_workflow_config,
)
from fastdllm.workflow.project.digests import FileDigests, digest_of
from fastdllm.workflow.project.fingerprint_keys import (
    ModelIdentity,
    TaskIdentity,
    check_overruled,
    config_decides,
    plan_decides,
    read_model,
    read_task,
    task_decides,
)
from fastdllm.workflow.project.grid import expand_grid
from fastdllm.workflow.project.registered_claims import RegisteredClaims, registered_claims
from fastdllm.workflow.project.selection import Selection, keep

SCHEMA_VERSION = 1  # of spec.json, of runs and of plans


@dataclass(frozen=True)  # without slots, for its paths, which are asked for many times
class Run:
    """One config of one experiment on one task.

    decides: everything that decides the answers, flat, so that changes show key by key.
    surroundings: what a run needs besides: paths, device, batch size; not in the fingerprint.
    computation: digest that all runs share which are the same computation (computations.py).
    is_replicated: decoded even where another run is the same computation.
    is_likelihood: the task certainly generates nothing.
    claims: digests of the registered claims that its computation is part of.
    """

    experiment: str
    task: str
    config: str
    limit: int | None
    decides: dict[str, Any] = field(repr=False)
    surroundings: dict[str, Any] = field(repr=False)
    fingerprint: str
    computation: str
    is_replicated: bool = False
    is_likelihood: bool = False
    claims: tuple[str, ...] = ()

    @cached_property
    def name(self) -> str:
        """The unique name of a run: experiment/task folder/config."""
        return f"{self.experiment}/{self.task_folder}/{self.config}"

    @property
    def task_folder(self) -> str:
        return task_folder(self.task, self.limit)

    @cached_property
    def folder(self) -> Path:
        return RESULTS / self.name

    @cached_property
    def spec_path(self) -> Path:
        return self.folder / "spec.json"

    @cached_property
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
        return LOGS / "eval" / f"{self.name}.log"

    @cached_property
    def artifact_path(self) -> Path:
        return ARTIFACTS / self.name / "summary.json"

    def spec(self) -> dict[str, Any]:
        """Return the content of spec.json, the input of `fastdllm eval`."""
        return {
            "schema_version": SCHEMA_VERSION,
            "experiment": self.experiment,
            "task": self.task,
            "config": self.config,
            "limit": self.limit,
            "fingerprint": self.fingerprint,
            "decides": self.decides,
            "run": {
                **self.surroundings,
                "computation": self.computation,
                **({"claims": list(self.claims)} if self.claims else {}),
            },
        }


@dataclass(frozen=True, slots=True)
class TaskPlan:
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
        """The spec that the plan on disk was made from."""
        return PLANS / self.task_folder / MADE_FROM

    def spec(self) -> dict[str, Any]:
        """Return the content of the plan's spec.json; a plan made from another is invalid."""
        return {"schema_version": SCHEMA_VERSION, "decides": self.decides}

    def notices(self) -> list[str]:
        """Return what the plan on disk names about the items; nothing if it is of another spec."""
        is_current = json_object(self.made_from_path) == self.spec()
        return planned_notices(self.plan_path.parent) if is_current else []

    def failure(self) -> str | None:
        """Return why the last attempt to plan failed, with its log; None for another spec."""
        is_current = json_object(self.spec_path) == self.spec()
        return read_failure(self.spec_path.with_name("failed.json")) if is_current else None


@dataclass(frozen=True, slots=True)
class Project:
    """The selected runs of a project, in the order of its configuration; all_runs: every one.

    claims: of all experiments that have some.
    """

    config: WorkflowConfig
    experiments: dict[str, ExperimentConfig]
    runs: tuple[Run, ...]
    all_runs: tuple[Run, ...]
    plans: tuple[TaskPlan, ...]
    claims: tuple[RegisteredClaims, ...] = ()


def task_plan(config: WorkflowConfig, task: str, limit: int | None) -> TaskPlan:
    """Return the plan of one task.

    Raises:
        UserError: the model or the task cannot be read.
    """
    digests = FileDigests.load()
    decides = plan_decides(
        config, read_model(config, digests), read_task(config.task_source(task), digests)
    )
    digests.save()
    return TaskPlan(task, limit, decides)


def load_project(selection: Selection | None = None) -> Project:
    """Read, check and expand the project in the current folder.

    The whole configuration is checked, even if the selection is small: mistakes show at once.

    Raises:
        UserError: any mistake in the configuration or the selection.
    """
    selection = selection or Selection()
    config = load_workflow_config()
    digests = FileDigests.load()
    model = read_model(config, digests)
    tasks = {name: read_task(config.task_source(name), digests) for name in config.tasks}
    experiments = {name: load_experiment_config(name) for name in config.experiments}
    runs = [
        run
        for name, experiment in experiments.items()
        for run in expand_runs(
            name,
            experiment,
            policy_file=EXPERIMENTS / name / experiment.policy,
            where=str(experiment_file(name)),
            config=config,
            model=model,
            tasks=tasks,
            limit=selection.limit,
        )
    ]
    digests.save()
    claims = registered_claims(
        experiments, {(run.experiment, run.task, run.config): run.computation for run in runs}
    )
    all_runs = tuple(runs if selection.limit is not None else _with_claims(runs, claims))
    runs = _selected(all_runs, selection, config)
    planned = {run.task for run in runs}
    plans = tuple(
        TaskPlan(name, selection.limit, plan_decides(config, model, task))
        for name, task in tasks.items()
        if name in planned
    )
    return Project(
        config=config,
        experiments=experiments,
        runs=tuple(runs),
        all_runs=all_runs,
        plans=plans,
        claims=tuple(claims),
    )


def runs_on(project: Project, experiment: str, task: str) -> list[Run]:
    """Return the runs that an experiment would have on an enabled task, named by it or not.

    Raises:
        UserError: a setting has no effect on the task.
    """
    digests, config = FileDigests.load(), project.config
    given = project.experiments[experiment]
    return expand_runs(
        experiment,
        given.model_copy(update={"tasks": [task]}),
        policy_file=EXPERIMENTS / experiment / given.policy,
        where=str(experiment_file(experiment)),
        config=config,
        model=read_model(config, digests),
        tasks={task: read_task(config.task_source(task), digests)},
        limit=None,
    )


def expand_runs(
    name: str,
    experiment: ExperimentConfig,
    *,
    policy_file: Path,
    where: str,
    config: WorkflowConfig,
    model: ModelIdentity,
    tasks: dict[str, TaskIdentity],
    limit: int | None,
) -> list[Run]:
    """Return the runs of one experiment on its tasks, of `tasks`.

    where: opens the error lines.

    Raises:
        UserError: a mistake in its settings, or in the file of its policy.
    """
    policy = load_policy(policy_file)
    configs = expand_grid(
        experiment,
        policy=policy,
        defaults=config.decoding.given(),
        shape=model.shape,
        where=where,
    )
    policy_decides = {"policy": policy.__name__, "policy_digest": policy_code_digest(policy_file)}
    points = [
        (
            point,
            config_decides(point),
            normal_in_generation(policy, point, model.shape, str(policy_file)),
        )
        for point in configs
    ]
    runs = []
    for task in keep("task", config.tasks_of(experiment), config.tasks, where=f"{where}: tasks"):
        check_overruled(tasks[task], experiment, configs, where)
        source = config.task_source(task)
        surroundings = {
            "task_file": str(source.file),
            "task_data": source.data,
            "task_definition": tasks[task].definition,
            "policy_file": str(policy_file),
            "plan_folder": str(PLANS / task_folder(task, limit)),
            "model_path": config.model.path,
            "model_revision": config.model.revision,
            "device": config.model.device,
            "bootstrap_iters": config.bootstrap_iters,
            "batch_size": config.task_options(task).batch_size,
        }
        shared = {**task_decides(config, model, tasks[task]), **policy_decides, "limit": limit}
        for point, of_config, normal in points:
            decides = {**shared, **of_config}
            is_likelihood = tasks[task].is_likelihood
            counted = normal_in_likelihoods(decides) if is_likelihood else normal
            runs.append(
                Run(
                    experiment=name,
                    task=task,
                    config=point.name,
                    limit=limit,
                    decides=decides,
                    surroundings=surroundings,
                    fingerprint=digest_of(decides),
                    computation=computation_of(decides, counted),
                    is_replicated=experiment.replicate,
                    is_likelihood=is_likelihood,
                )
            )
    return runs


def _with_claims(runs: Sequence[Run], claims: Sequence[RegisteredClaims]) -> list[Run]:
    """Return the runs with the claims they are part of, themselves or by their computation."""
    if not claims:
        return list(runs)
    computations = {(run.experiment, run.task, run.config): run.computation for run in runs}
    of: dict[str, set[str]] = {}
    for registered in claims:
        for place in registered.places.values():
            of.setdefault(computations[place], set()).add(registered.digest)
    return [
        replace(run, claims=tuple(sorted(of[run.computation]))) if run.computation in of else run
        for run in runs
    ]


def _selected(runs: Sequence[Run], selection: Selection, config: WorkflowConfig) -> list[Run]:
    experiments = keep("experiment", selection.experiments, config.experiments)
    tasks = keep("task", selection.tasks, config.tasks)
    kept = [run for run in runs if run.experiment in experiments and run.task in tasks]
    configs = set(keep("config", selection.configs, dict.fromkeys(run.config for run in kept)))
    return [run for run in kept if run.config in configs]
