"""Figures that others published (docs/published.yaml): with setting, metric and source each.

They are shown beside what was measured here, never mixed with it. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from fastdllm.common.yaml_files import read_yaml_mapping
from fastdllm.records.summary import DECODING
from fastdllm.settings import DecodingSettings
from fastdllm.validation import StrictModel, validated

PUBLISHED_FILE = Path(__file__).resolve().parents[2] / "docs" / "published.yaml"
METRIC_UNKNOWN = "metric not stated"

Text = Annotated[str, Field(min_length=1)]
Positive = Annotated[float, Field(gt=0)]


class Figure(StrictModel):
    """What a source says of one task."""

    task: Text
    metric: Text | None = Field(None, description="Absent if the source does not say which.")
    accuracy: Annotated[float, Field(ge=0, le=100)] | None = Field(None, description="Percent.")
    tokens_per_forward: Positive | None = None
    tokens_per_s: Positive | None = None
    tokens_per_answer: Positive | None = None
    hardware: Text | None = Field(None, description="Kind of GPU; of a speed.")
    batch_size: Annotated[int, Field(ge=1)] | None = None
    dtype: Text | None = None
    asked: dict[str, bool | int | str] = Field(
        default_factory=dict, description="How the task was asked, by the keys of `decides`."
    )
    note: Text | None = None


class Publication(StrictModel):
    """What a source says of a model, decoded with `settings`; null: the source does not say how."""

    source: Text
    model: Text = Field(description="Hub id.")
    settings: dict[str, Any] | None = None
    figures: Annotated[list[Figure], Field(min_length=1)]

    @field_validator("settings")
    @classmethod
    def _are_settings(cls, values: dict[str, Any] | None) -> dict[str, Any] | None:
        known = validated(DecodingSettings, values or {}, "settings")
        return None if values is None else {name: getattr(known, name) for name in values}


class ComparedTask(StrictModel):
    """A task of this project that is asked as in the publications."""

    n_items: Annotated[int, Field(ge=1)] = Field(description="How many a whole task has.")
    definition: Text = Field(description="Digest of its files in tasks/, without its data.")


class Publications(StrictModel):
    """docs/published.yaml."""

    tasks: dict[Text, ComparedTask] = Field(default_factory=dict)
    publications: list[Publication]


@dataclass(frozen=True, slots=True)
class Published:
    """One figure with its source, model and settings; task: None if this project has it not."""

    figure: Figure
    source: str
    model: str
    settings: Mapping[str, Any] | None
    task: ComparedTask | None

    def is_asked_in(self, decides: Mapping[str, Any], definition: object) -> bool:
        """Whether a run asks the model what the figure was measured on, and in the same way.

        What the source does not say is as the task's file has it.

        Args:
            decides: of the run.
            definition: digest of its task's files; one that the user has edited is another task.
        """
        if (self.model, self.figure.task) != (decides.get("model"), decides.get("task")):
            return False
        asked = {"num_fewshot": None} | self.figure.asked
        return (
            self.task is not None
            and self.task.definition == definition
            and all(decides.get(key) in (None, value) for key, value in asked.items())
        )

    def is_decoded_in(self, decides: Mapping[str, Any], *, generates: bool = True) -> bool:
        """Whether a run decodes the model with all settings that the source states.

        generates: of log-likelihoods only the blocks of the prompt depend on settings.
        """
        return (
            self.model == decides.get("model")
            and self.settings is not None
            and all(
                decides.get(f"{DECODING}{name}") == value
                for name, value in self.settings.items()
                if generates or name == "block_size"
            )
        )

    @property
    def words(self) -> str:
        """Everything that is known of it, for a note below a table."""
        figure = self.figure
        parts = [
            None if figure.accuracy is None else f"{figure.accuracy:g} %",
            None if figure.tokens_per_s is None else f"{figure.tokens_per_s:g} tokens/s",
            figure.tokens_per_forward and f"{figure.tokens_per_forward:g} tokens per forward",
            figure.metric or (figure.accuracy is not None and METRIC_UNKNOWN),
            ", ".join(f"{k} {v}" for k, v in {**(self.settings or {}), **figure.asked}.items()),
            *(figure.hardware, figure.dtype),
            figure.tokens_per_s and f"batch size {figure.batch_size or 'not stated'}",
            figure.note,
        ]
        return f"{self.source}: {'; '.join(part for part in parts if part)}"


def read_published(path: Path = PUBLISHED_FILE) -> list[Published]:
    """Read all figures, in the order of the file.

    Raises:
        UserError: the file is missing or wrong; naming the key.
    """
    values = read_yaml_mapping(path, what="a file of published figures")
    known = validated(Publications, values, str(path))
    return [
        Published(figure, entry.source, entry.model, entry.settings, known.tasks.get(figure.task))
        for entry in known.publications
        for figure in entry.figures
    ]


@cache
def published() -> tuple[Published, ...]:
    """Return all figures, read once a process; none where the code stands without its docs."""
    return tuple(read_published()) if PUBLISHED_FILE.is_file() else ()
