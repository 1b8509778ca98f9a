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


class Publications(StrictModel):
    """docs/published.yaml."""

    items: dict[Text, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict, description="How many a whole task has."
    )
    publications: list[Publication]


@dataclass(frozen=True, slots=True)
class Published:
    """One figure with its source, model and settings; n_items: of the whole task, if known."""

    figure: Figure
    source: str
    model: str
    settings: Mapping[str, Any] | None
    n_items: int | None

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
        Published(figure, entry.source, entry.model, entry.settings, known.items.get(figure.task))
        for entry in known.publications
        for figure in entry.figures
    ]


@cache
def published() -> tuple[Published, ...]:
    """Return all figures, read once a process; none where the code stands without its docs."""
    return tuple(read_published()) if PUBLISHED_FILE.is_file() else ()
