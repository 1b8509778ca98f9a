"""What users write: workflow_config.yaml and experiments/<name>/experiment.yaml.

Owns both schemas and how they are loaded; runs.py turns them into runs. Every mistake becomes one
line that names the file and the key. `python -m scripts.write_schemas` writes the JSON schemas to
docs/schemas, so that editors complete the keys.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from fastdllm.cluster.site import ClusterOptions
from fastdllm.common.errors import UserError, nearest_name, unknown_name
from fastdllm.common.files import to_json
from fastdllm.common.paths import TASKS, check_name, check_task_name
from fastdllm.common.yaml_files import read_yaml_mapping
from fastdllm.records.claim_kinds import Claim, Planned
from fastdllm.runs.spec import BatchSize, Positive
from fastdllm.settings import DecodingSettings
from fastdllm.statistics.paired_speed import FEWEST_SITTINGS
from fastdllm.tasks.task_metadata import own_options
from fastdllm.tasks.task_source import TaskSource
from fastdllm.validation import StrictModel, validated

WORKFLOW_CONFIG = Path("workflow_config.yaml")
EXPERIMENTS = Path("experiments")
SCHEMAS = Path("docs/schemas")

_DEVICE = r"^(auto|cpu|cuda(:\d+)?)$"
_POLICY_FILE = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\.py$"


def _check_device(device: str) -> str:
    if not re.fullmatch(_DEVICE, device):
        raise ValueError(f"{device!r} is not allowed; it should be auto, cpu, cuda or cuda:N")
    return device


def _check_policy_file(name: str) -> str:
    if not re.fullmatch(_POLICY_FILE, name):
        raise ValueError(
            f"{name!r} is not allowed; it should be a .py file in the experiment's folder, whose "
            "name holds only letters, digits, '_', '.' and '-'"
        )
    return name


# Checked by functions, for readable error lines; the schema shows the patterns to editors.
Device = Annotated[
    str, AfterValidator(_check_device), Field(json_schema_extra={"pattern": _DEVICE})
]
PolicyFile = Annotated[
    str, AfterValidator(_check_policy_file), Field(json_schema_extra={"pattern": _POLICY_FILE})
]
Name = Annotated[str, AfterValidator(check_name)]
TaskName = Annotated[str, AfterValidator(check_task_name)]
PlainValue = bool | int | float | str | None
GridValue = PlainValue | list[PlainValue]


class DecodingOverrides(DecodingSettings):
    """Any decoding settings; those left out keep the value of the level below."""

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        # Whether the settings agree is decided once all levels are merged.
        return self

    def given(self) -> dict[str, Any]:
        """Only the settings that were written down."""
        return self.model_dump(exclude_unset=True)


class Grid(StrictModel):
    """One grid of an experiment, and how its configs are named."""

    grid: dict[str, list[GridValue]] = Field(
        default_factory=dict,
        description="Key -> values; every combination is one config. A key is a decoding setting "
        "or a field of the policy's Parameters.",
    )
    config_name: str = Field(
        min_length=1,
        description="Name of each config; {key} stands for the value of a grid key, [3, 8] for "
        "3-8.",
    )
    decoding: DecodingOverrides = Field(
        default=DecodingOverrides(),
        description="Decoding settings of the configs of this grid only.",
    )


class SpeedOptions(StrictModel):
    """Which configs are timed in turn, in one process."""

    baseline: str = Field(
        min_length=1,
        description="The config that the others are compared with; of another experiment: "
        "<experiment>/<config>.",
    )
    configs: list[str] = Field(
        min_length=1,
        description="The configs to compare with it, named likewise.",
    )
    batch_sizes: list[Positive] = Field(
        min_length=1, description="Sequences decoded at once; each gives its own ratios."
    )
    sittings: int = Field(
        5,
        ge=FEWEST_SITTINGS,
        description="Processes, one after the other, over which a ratio is given; they differ by "
        "more than the rounds of one.",
    )
    precision: float = Field(
        0.02,
        ge=0.001,
        le=0.5,
        description="Wanted half-width of a ratio as far as rounds vary: the first rounds decide "
        "how many there are.",
    )

    @model_validator(mode="after")
    def _names_differ(self) -> SpeedOptions:
        given = [self.baseline, *self.configs, *map(str, self.batch_sizes)]
        twice = next((name for name in given if given.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice!r} is named twice; once is enough")
        return self


class ExperimentConfig(StrictModel):
    """experiments/<name>/experiment.yaml: the grid that is executed."""

    title: str = Field(description="One line for tables and plots.")
    question: str = Field(description="The question that the experiment answers.")
    policy: PolicyFile = Field(
        "generation_functions.py",
        description="File in this folder with exactly one subclass of fastdllm.policy.Policy.",
    )
    decoding: DecodingOverrides = Field(
        default=DecodingOverrides(),
        description="Decoding settings of every config of this experiment.",
    )
    grid: dict[str, list[GridValue]] | None = Field(
        None,
        description="Key -> values; every combination is one config. A key is a decoding setting "
        "or a field of the policy's Parameters.",
    )
    config_name: str | None = Field(
        None,
        min_length=1,
        description="Name of each config of `grid`; {key} stands for the value of a grid key, "
        "[3, 8] for 3-8.",
    )
    grids: list[Grid] | None = Field(
        None,
        min_length=1,
        description="Several grids, in place of `grid` and `config_name`; each names its own "
        "configs.",
    )
    replicate: bool = Field(
        False,
        description="Decode every run, even where another is the same computation, so that they "
        "can be compared; the only one of a computation leads no other.",
    )
    tasks: list[Name] | None = Field(
        None,
        min_length=1,
        description="Enabled tasks to run; null: all but those that are run only where named.",
    )
    speed: SpeedOptions | None = Field(
        None,
        description="Configs whose seconds are compared by `snakemake speed`; null: none.",
    )
    claims: list[Claim] | None = Field(
        None,
        min_length=1,
        description="What is claimed before it is run, in the order in which it is tested "
        "(docs/claims.md); null: nothing, so all that is found is exploratory.",
    )
    planned: Planned | None = Field(
        None, description="How many items the claims were planned with, and why."
    )

    @model_validator(mode="after")
    def _claims_are_whole(self) -> Self:
        claims, tasks = self.claims or [], self.tasks or []
        if self.planned is not None and not claims:
            raise ValueError("planned: is about claims, and there are none")
        if claims and not tasks:
            raise ValueError("tasks must name what the claims are about, so that all see it")
        for index, claim in enumerate(claims):
            place = f"claims.{index}"
            if any(claim.id == other.id for other in claims[:index]):
                raise ValueError(
                    f"{place}.id: {claim.id!r} is given twice; number them C1, C2, ..."
                )
            if claim.config in claim.controls:
                raise ValueError(f"{place}.against: {claim.config!r} is the config itself")
            if claim.task is None and len(tasks) > 1:
                raise ValueError(f"{place}.task: is required, as tasks names {len(tasks)}")
            if claim.task is not None and claim.task not in tasks:
                near = nearest_name(claim.task, tasks)
                hint = f"did you mean {near!r}? " if near else ""
                raise ValueError(
                    f"{place}.task: unknown task {claim.task!r}; {hint}valid: {', '.join(tasks)}"
                )
        return self

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.grids is None and self.config_name is None:
            raise ValueError("config_name is required (with grid), or grids, a list of such pairs")
        if self.grids is not None and (self.grid is not None or self.config_name is not None):
            raise ValueError(
                "grids stands in place of grid and config_name; move these two into the list"
            )
        return self

    def parts(self) -> dict[str, Grid]:
        """The grids, by the key they are written under ("" for the only one)."""
        if self.grids is not None:
            return {f"grids.{index}.": grid for index, grid in enumerate(self.grids)}
        return {"": Grid(grid=self.grid or {}, config_name=self.config_name or "")}


class ModelChoice(StrictModel):
    """Which model is decoded, and how it is loaded."""

    path: Annotated[str, AfterValidator(os.path.expanduser)] = Field(
        "models/tiny",
        min_length=1,
        description="Folder with config.json and *.safetensors, or a Hugging Face id (owner/name).",
    )
    revision: str | None = Field(
        None,
        description="Branch, tag or commit of a Hugging Face id; null: main. Name a commit to make "
        "results repeatable. Not allowed for a folder.",
    )
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = Field(
        "auto",
        description="Number format of the weights; auto: float32 on a CPU, else what the GPU has.",
    )
    device: Device = Field(
        "auto",
        description="auto, cpu, cuda or cuda:N; auto uses the GPU if there is one. Does not "
        "count as a change of the run.",
    )


class TaskOptions(StrictModel):
    """How one task is run; the task itself is tasks/<name>.yaml, whose file may say it as well."""

    data: str | None = Field(
        None,
        min_length=1,
        description="Folder of the task's files, in place of the data_dir in its file. Does not "
        "count as a change of the run; the content of the files does.",
    )
    chunk_size: int = Field(
        200,
        ge=1,
        description="Most requests in a chunk, which is kept as soon as it is finished: a killed "
        "run loses at most one chunk.",
    )
    batch_size: BatchSize = Field(
        "auto",
        description="Most sequences decoded at once, or auto: as many as memory allows. For "
        "log-likelihoods: inputs in memory at once. Does not count as a change of the run.",
    )
    apply_chat_template: bool = Field(
        False,
        description="Wrap each prompt in the model's chat template. To be given where it has one.",
    )
    num_fewshot: int | None = Field(
        None, ge=0, description="Worked examples in each prompt; null: what the task file says."
    )
    likelihood_mode: Literal["published", "chain"] = Field(
        "chain",
        description="How likely an option of several tokens is: chain adds up its tokens, each "
        "given those before it; published takes the first one only, as the published scripts do. "
        "The same for options of one token.",
    )
    shards: int = Field(
        1,
        ge=1,
        description="Jobs that share the chunks of one run; the answers do not depend on it. Does "
        "not count as a change of the run.",
    )
    group: int = Field(
        1,
        ge=1,
        description="Most runs that share one job, which loads the model once. Does not count as a "
        "change of the run.",
    )
    only_where_named: bool = Field(
        False,
        description="Only experiments that name the task (tasks: in experiment.yaml) run it. Does "
        "not count as a change of the run.",
    )

    @model_validator(mode="after")
    def _shared_in_one_way(self) -> TaskOptions:
        if self.shards > 1 and self.group > 1:
            raise ValueError(
                "shards and group cannot both be more than 1: a run is split into several jobs, or "
                "several runs share one"
            )
        return self


class WorkflowConfig(StrictModel):
    """workflow_config.yaml: what is run."""

    model: ModelChoice = Field(description="The model that every run decodes with.")
    experiments: list[Name] = Field(
        min_length=1, description="Enabled experiments: folders in experiments/."
    )
    tasks: dict[TaskName, TaskOptions | None] = Field(
        min_length=1,
        description="Enabled tasks and their options; the task file is tasks/<name>.yaml.",
    )
    decoding: DecodingOverrides = Field(
        default=DecodingOverrides(),
        description="Decoding settings for every experiment; an experiment may set others.",
    )
    cluster: ClusterOptions = Field(
        default=ClusterOptions(),
        description="Account, GPU and queue of the jobs; used by profiles with a site.yaml.",
    )
    allow_code_execution: bool = Field(
        False,
        description="Run the code in answers, in a sandbox (docs/sandbox.md), where a task is "
        "scored by it: unsafe_code: true in its file. Does not count as a change of the run.",
    )
    bootstrap_iters: int = Field(
        1000,
        ge=0,
        description="Resamplings for the standard errors of lm-eval; 0 computes none. Does not "
        "count as a change of the run.",
    )

    def task_options(self, task: str) -> TaskOptions:
        """The options of an enabled task; the defaults if it is only named."""
        return self.tasks[task] or TaskOptions()

    def tasks_of(self, experiment: ExperimentConfig) -> list[str]:
        """The tasks that an experiment names, else all that need not be named."""
        if experiment.tasks is not None:
            return experiment.tasks
        return [task for task in self.tasks if not self.task_options(task).only_where_named]

    def task_source(self, task: str) -> TaskSource:
        """Where an enabled task is read from."""
        return TaskSource(TaskSource.named(task).file, self.task_options(task).data)


def load_workflow_config(path: Path = WORKFLOW_CONFIG) -> WorkflowConfig:
    """Read and check workflow_config.yaml.

    Raises:
        UserError: naming the file, the key and what is allowed.
    """
    what = "the config of the workflow (run this in the project's folder, or give --directory)"
    values = read_yaml_mapping(path, what=what)
    for key in values.keys() - WorkflowConfig.model_fields.keys():
        if (TASKS / f"{key}.yaml").is_file():  # of a line that lost its indent with its `#`
            raise UserError(f"{path}: {key!r} is a task; indent its line to stand under tasks:")
    config = validated(WorkflowConfig, values, str(path))
    for experiment in config.experiments:
        if not (EXPERIMENTS / experiment / "experiment.yaml").is_file():
            existing = [p.parent.name for p in EXPERIMENTS.glob("[!_.]*/experiment.yaml")]
            raise unknown_name("experiment", experiment, existing, f"{path}: experiments")
    _refuse_repeated(config.experiments, f"{path}: experiments")
    tasks = {
        name: _with_own_options(name, options, f"{path}: tasks")
        for name, options in config.tasks.items()
    }
    return config.model_copy(update={"tasks": tasks})


def allows_code() -> bool:
    """Whether workflow_config.yaml lets scores come from running the code in answers, as of now.

    Raises:
        UserError: it cannot be read.
    """
    return load_workflow_config().allow_code_execution


def with_task(config: WorkflowConfig, task: str) -> WorkflowConfig:
    """Return the configuration with a task enabled, by the options of its file if it was not.

    Raises:
        UserError: there is no such task, or its file is broken.
    """
    if task in config.tasks:
        return config
    options = _with_own_options(task, None, "tasks")
    return config.model_copy(update={"tasks": {**config.tasks, task: options}})


def unknown_task(name: str, enabled: Iterable[str], where: str) -> UserError:
    """Build the error for a task that is not enabled, or that does not exist."""
    there, enabled = [file.stem for file in TASKS.glob("[!_.]*.yaml")], sorted(enabled)
    if name in there:
        return UserError(
            f"{where}: task {name!r} is not enabled (only {', '.join(enabled)}); write `{name}:` "
            f"under tasks: in {WORKFLOW_CONFIG}"
        )
    return UserError(
        f"{unknown_name('task', name, there, where)} (any other task of lm-eval: fastdllm new-task "
        f"{name}; see {TASKS}/README.md)"
    )


def _with_own_options(name: str, options: TaskOptions | None, where: str) -> TaskOptions:
    """Return the options of a task: as they are given, else as its file has them."""
    source = TaskSource.named(name)
    if not source.file.is_file():
        raise unknown_task(name, (), where)
    own = own_options(source)
    validated(TaskOptions, own, f"{source.file}: metadata.options")
    given = options.model_dump(exclude_unset=True) if options is not None else {}
    return validated(TaskOptions, {**own, **given}, f"{where}.{name}")


def load_experiment_config(experiment: str) -> ExperimentConfig:
    """Read and check experiments/<experiment>/experiment.yaml (see `load_workflow_config`)."""
    path = experiment_file(experiment)
    config = validated(
        ExperimentConfig, read_yaml_mapping(path, what="an experiment's grid"), str(path)
    )
    for place, part in config.parts().items():
        for key, values in part.grid.items():
            if not values:
                raise UserError(f"{path}: {place}grid.{key}: needs at least one value")
    _refuse_repeated(config.tasks or [], f"{path}: tasks")
    return config


def experiment_file(experiment: str) -> Path:
    """Return the path of an experiment's grid."""
    return EXPERIMENTS / experiment / "experiment.yaml"


def _refuse_repeated(names: list[str], where: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{where}: {name!r} is listed twice; once is enough")


def schema_texts() -> dict[Path, str]:
    """The JSON schemas of both files, by the path where they are published."""
    records: dict[str, type[StrictModel]] = {
        "workflow_config": WorkflowConfig,
        "experiment": ExperimentConfig,
    }
    return {
        SCHEMAS / f"{name}.schema.json": to_json(record.model_json_schema())
        for name, record in records.items()
    }
