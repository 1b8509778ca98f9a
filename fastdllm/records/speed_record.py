"""speed.json: seconds of several configs, measured in turn, and the ratios that follow from them.

Owns the record, with every round of every sitting; the estimates in it are computed by
statistics/measured_speed.py. What was not measured is absent. Imports no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, JsonValue, model_validator

from fastdllm.common.files import write_text_atomically
from fastdllm.records.signed_record import read_signed, signed_text
from fastdllm.records.summary import Git, Hardware
from fastdllm.validation import StrictModel

SPEED_SCHEMA_VERSION = 1
SPEED_FILE = "speed.json"

Interval = tuple[float, float]
Halves = tuple[float, float]


def again(baseline: str) -> str:
    """Return the name under which a baseline is timed a second time; no config has such a one."""
    return f"{baseline} again"


class BatchRounds(StrictModel):
    """The rounds of a sitting at one batch size, by config and in order."""

    batch_size: int = Field(ge=1, description="Sequences decoded at once.")
    items: int = Field(ge=1, description="Items that each config decodes in each half of a round.")
    seconds: dict[str, list[Halves]] = Field(
        description="By config, for each round the seconds of both halves (A B C, then C B A); "
        "`<baseline> again` is the baseline under a second name."
    )
    cpu_seconds: dict[str, list[Halves]] = Field(
        description="The same in seconds of all processors that the process used."
    )
    tokens: dict[str, list[int]] = Field(
        description="By config, for each round the tokens generated in one half."
    )

    @model_validator(mode="after")
    def _is_complete(self) -> BatchRounds:
        columns = [*self.seconds.values(), *self.cpu_seconds.values()]
        lengths = {len(column) for column in columns} | {len(c) for c in self.tokens.values()}
        if len(lengths) > 1:
            raise ValueError("some configs have more rounds than others; measure again")
        if not self.seconds.keys() == self.cpu_seconds.keys() == self.tokens.keys():
            raise ValueError("seconds, cpu_seconds and tokens are of different configs")
        if any(half <= 0 for column in self.seconds.values() for pair in column for half in pair):
            raise ValueError("seconds must be more than 0; measure again")
        return self

    @property
    def rounds(self) -> int:
        """How many rounds there are."""
        return min((len(column) for column in self.seconds.values()), default=0)


class Sitting(StrictModel):
    """One sitting: a process on one node that loads the model and times all configs in turn."""

    number: int = Field(ge=1, description="1, 2, ...: sittings follow each other.")
    started: str = Field(description="UTC, ISO 8601.")
    ended: str = Field(description="UTC, ISO 8601.")
    processes: int = Field(
        ge=1, description="More than one where it was interrupted, and went on on the same node."
    )
    host: str = Field(description="Name of the node.")
    hardware: Hardware = Field(description="What it was measured on.")
    dtype: str = Field(description="Number format of the model.")
    environment: dict[str, str] = Field(description="Versions of Python and of packages.")
    git: Git | None = Field(None, description="Absent outside of a git repository.")
    git_unknown: str | None = Field(None, description="Why git did not name the commit.")
    code_digest: str = Field(
        description="Digest of the code that decodes, without comments and layout."
    )
    load_s: float = Field(description="Seconds to load the model, in no round.")
    planned_rounds: dict[str, int] = Field(
        description="By batch size, the rounds of each sitting, as the first twelve of the first "
        "sitting decided."
    )
    batches: list[BatchRounds] = Field(description="By batch size, the rounds.")


class SittingEstimate(StrictModel):
    """A config's seconds over the baseline's in one sitting; intervals cover only its rounds."""

    ratio: float = Field(description="Hodges-Lehmann median over the rounds.")
    interval: Interval | None = Field(None, description="95 %, signed ranks.")
    mean: float = Field(description="Geometric mean of the rounds, for comparison.")
    mean_interval: Interval | None = Field(None, description="95 %, Student's t.")
    autocorrelation: float | None = Field(None, description="Of successive rounds (lag 1).")
    halves: float = Field(
        description="The config's seconds of first halves over those of second ones (median), "
        "which shows a drift."
    )


class SpeedEstimate(StrictModel):
    """A config's seconds per answer over the baseline's, at one batch size."""

    config: str = Field(description="The config; `<baseline> again` is a check, and should give 1.")
    batch_size: int = Field(description="Sequences decoded at once.")
    ratio: float = Field(description="Geometric mean of the sittings; below 1 is faster.")
    interval: Interval = Field(
        description="95 %, Student's t over the sittings: it covers how rounds vary, and how "
        "sittings differ."
    )
    cpu_ratio: float = Field(description="The same in seconds of processors.")
    cpu_interval: Interval = Field(description="95 %, as above.")
    seconds_per_answer: float = Field(description="Of the config, over all rounds.")
    tokens_per_answer: float = Field(description="Of the config, over all rounds.")
    rounds: int = Field(description="Rounds of all sittings.")
    sittings: list[SittingEstimate] = Field(description="By sitting.")


class SpeedRecord(StrictModel):
    """speed.json of an experiment and a task."""

    schema_version: Literal[1] = Field(1, description="Version of this layout.")
    experiment: str = Field(description="Experiment folder name.")
    task: str = Field(description="Task, as in tasks/<task>.yaml.")
    limit: int | None = Field(None, description="Items of a trial; such a record is not published.")
    fingerprint: str = Field(description="Digest of `decides`; distinguishes done from stale.")
    decides: dict[str, JsonValue] = Field(
        description="What the measurement depends on: the computation of each config, the "
        "baseline, the batch sizes, the number of sittings, the precision, the GPU asked for."
    )
    baseline: str = Field(description="The config that all others are compared with.")
    estimates: list[SpeedEstimate] = Field(description="By batch size and config.")
    failed_checks: list[str] = Field(
        description="What the checks found: where this is not empty, no config is called faster."
    )
    sittings: list[Sitting] = Field(description="All rounds.")
    content_digest: str | None = Field(
        None, description="Digest of all other fields, by which an edited file is refused."
    )

    @property
    def name(self) -> str:
        """Experiment and task, for people."""
        return f"{self.experiment}/{self.task}"

    def estimate(self, config: str, batch_size: int) -> SpeedEstimate | None:
        """The estimate of a config at a batch size, None if it was not measured."""
        found = (e for e in self.estimates if (e.config, e.batch_size) == (config, batch_size))
        return next(found, None)


def write_speed(path: Path, record: SpeedRecord) -> None:
    """Write a record atomically.

    Raises:
        UserError: the file cannot be written.
    """
    write_text_atomically(path, signed_text(record))


def read_speed(path: Path) -> SpeedRecord:
    """Read and check a record.

    Raises:
        UserError: missing, not JSON, of another version, or edited by hand.
    """
    return read_signed(
        path, SpeedRecord, version=SPEED_SCHEMA_VERSION, again="measure again: snakemake speed"
    )


def speed_schema() -> dict[str, Any]:
    """JSON schema of speed.json, for docs/schemas/speed.schema.json."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **SpeedRecord.model_json_schema(),
    }
