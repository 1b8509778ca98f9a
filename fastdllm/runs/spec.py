"""spec.json: the settings of one run, read and checked.

The workflow writes it; `decides` holds everything that decides the answers (and is fingerprinted),
`run` where things are on this machine. Imports no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, JsonValue

from fastdllm.common.errors import UserError
from fastdllm.common.files import read_json
from fastdllm.common.paths import LOGS, task_folder
from fastdllm.records.summary import DECODING, PARAMETERS
from fastdllm.settings import DecodingSettings
from fastdllm.tasks.plan import Plan, plan_again
from fastdllm.tasks.task_source import TaskSource
from fastdllm.validation import StrictModel, validated


def _check_batch_size(value: Any) -> Any:
    if value != "auto" and not (isinstance(value, int) and value >= 1):
        raise ValueError(f"{value!r} is not allowed; it should be at least 1, or auto")
    return value


# Our validator words the error; the bound is for the JSON schema, which editors read.
Positive = Annotated[int, Field(ge=1)]
BatchSize = Annotated[Positive | Literal["auto"], BeforeValidator(_check_batch_size)]


class RunPlaces(StrictModel):
    """Where a run is decoded, and in batches of which size: nothing that makes it another run.

    batch_size: most sequences decoded at once (inputs in memory at once, for log-likelihoods).
    task_data: as `TaskSource.data`.
    task_definition: digest of the task's files without its data. computation: digest that runs
    share which are the same computation. claims: digests of the registered claims that it is part
    of. The summary keeps all three.
    """

    # The workflow may record more for people than an eval needs.
    model_config = ConfigDict(extra="ignore", frozen=True)

    model_path: str
    model_revision: str | None = None
    device: str = "auto"
    policy_file: str
    plan_folder: str
    task_file: str
    task_data: str | None = None
    task_definition: str | None = None
    bootstrap_iters: int = 1000
    batch_size: BatchSize = "auto"
    computation: str | None = None
    claims: list[str] | None = None

    @property
    def task(self) -> TaskSource:
        """Where the task is read from."""
        return TaskSource(Path(self.task_file), self.task_data)


class RunSpec(StrictModel):
    """One run; see docs/workflow.md for the keys of `decides`."""

    schema_version: Literal[1]
    experiment: str
    task: str
    config: str
    limit: int | None = Field(ge=1)
    fingerprint: str
    decides: dict[str, JsonValue]
    run: RunPlaces

    @property
    def settings(self) -> DecodingSettings:
        """The decoding settings, rebuilt from `decoding.<name>`."""
        return validated(DecodingSettings, self._part(DECODING), "spec.json: decides")

    @property
    def policy_parameters(self) -> dict[str, Any]:
        """The policy's own parameters, from `policy_parameters.<name>`."""
        return self._part(PARAMETERS)

    @property
    def label(self) -> str:
        """The run's name for people: experiment/task/config."""
        return f"{self.experiment}/{self.task}/{self.config}"

    @property
    def log_path(self) -> Path:
        """Where the workflow keeps this run's log."""
        folder = task_folder(self.task, self.limit)
        return LOGS / "eval" / self.experiment / folder / f"{self.config}.log"

    def _part(self, prefix: str) -> dict[str, Any]:
        return {k.removeprefix(prefix): v for k, v in self.decides.items() if k.startswith(prefix)}


def read_spec(path: Path | str) -> RunSpec:
    """Read a run's spec.

    Raises:
        UserError: missing, not JSON, or a key is missing or wrong.
    """
    if not Path(path).exists():
        raise UserError(f"{path}: no such file; `snakemake -n` writes the specs of all runs")
    return validated(RunSpec, read_json(path), str(path))


def check_plan(spec: RunSpec, plan: Plan) -> None:
    """Refuse a plan that was made for other options of the task.

    Raises:
        UserError: naming the option and both values.
    """
    options = {
        "task": spec.task,
        "limit": spec.limit,
        "chunk_size": spec.decides.get("chunk_size"),
        "num_fewshot": spec.decides.get("num_fewshot"),
        "apply_chat_template": spec.decides.get("apply_chat_template"),
    }
    if options["chunk_size"] is None:
        raise UserError(
            f"{spec.log_path.stem}: its spec.json was written by another version of fastdllm; "
            "`snakemake -n` writes it again"
        )
    for key, value in options.items():
        planned = getattr(plan.header, key)
        if planned != value:
            raise UserError(
                f"{spec.run.plan_folder}/plan.json: planned with {key} {planned!r}, the run asks "
                f"{value!r}; {plan_again(spec.task, spec.limit)}"
            )
