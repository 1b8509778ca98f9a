"""The spec of a speed measurement: which configs are timed in turn, and where its files are.

The workflow writes results/<experiment>/<task>/_speed/spec.json; beside it lie the rounds of each
sitting. Imports no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, JsonValue

from fastdllm.common.errors import UserError
from fastdllm.common.files import read_json
from fastdllm.records.speed_record import SPEED_FILE
from fastdllm.runs.spec import RunSpec
from fastdllm.validation import StrictModel, validated

SPEED_FOLDER = "_speed"
# Items that each config decodes in half a round: so many that slots are refilled, or waits average.
PIECES_PER_SLOT, SMALLEST_PIECE = 2, 8


class SpeedSpec(StrictModel):
    """One measurement: an experiment's configs on one task.

    decides: what makes a result stale, with `fingerprint` as its digest. runs: the spec of each
    config, by its name; `baseline` is one of them. plan_folder: of the task.
    """

    schema_version: Literal[1]
    experiment: str
    task: str
    limit: int | None = Field(ge=1)
    fingerprint: str
    decides: dict[str, JsonValue]
    baseline: str
    batch_sizes: list[int]
    sittings: int
    precision: float
    runs: dict[str, RunSpec]

    @property
    def label(self) -> str:
        """The measurement for people: experiment/task."""
        return f"{self.experiment}/{self.task}"


def read_speed_spec(path: Path) -> SpeedSpec:
    """Read the spec of a measurement.

    Raises:
        UserError: missing, not JSON, or a key is missing or wrong.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file; `snakemake -n speed` writes all of them")
    return validated(SpeedSpec, read_json(path), str(path))


def piece_size(batch_size: int, items: int) -> int:
    """Return how many of `items` each config decodes in half a round."""
    return min(items, max(SMALLEST_PIECE, PIECES_PER_SLOT * batch_size))


def sitting_path(folder: Path, number: int) -> Path:
    """Where a complete sitting is kept; folder: of the spec."""
    return folder / f"sitting-{number}.json"


def rounds_path(folder: Path, number: int) -> Path:
    """Where the rounds of a sitting are kept as soon as they are measured."""
    return folder / f"rounds-{number}.jsonl"


def progress_path(folder: Path, number: int) -> Path:
    """Where a sitting under way says how far it is."""
    return folder / f"progress-{number}.json"


def record_path(folder: Path) -> Path:
    """Where the record of all sittings is written."""
    return folder.parent / SPEED_FILE
