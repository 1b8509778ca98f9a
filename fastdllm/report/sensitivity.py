"""The record of `fastdllm sensitivity`, as the report needs it. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from fastdllm.errors import UserError
from fastdllm.files import read_json

# What is shown, in this order: field and words. The last column stands for all later steps too.
MEASURES = (
    ("token_changed", "passes that would commit other tokens"),
    ("input_change", "relative change of the layer's input"),
    ("delta_change", "relative change of what the layer adds"),
)
# The mean of fewer passes says little, so its cell is faded.
FEW_PASSES = 10

Value = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Grid = list[list[Value | None]]


class Span(BaseModel):
    """Layers [first, stop): share of layer-forwards saved, share of passes changed; both 0..1."""

    layers: tuple[int, int]
    saving: Value
    damage: Value


class Record(BaseModel):
    """The fields of docs/sensitivity.md that are shown; others are left alone."""

    schema_version: Literal[1]
    model: str
    model_digest: str | None = None
    n_items: int
    layers: int = Field(ge=1)
    steps: int = Field(ge=1)
    passes: list[Annotated[int, Field(ge=0)]]
    input_change: Grid
    delta_change: Grid
    token_changed: Grid
    spans: list[Span]

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if len(self.passes) != self.steps:
            raise ValueError(f"passes has {len(self.passes)} entries for {self.steps} steps")
        for field, _ in MEASURES:
            grid: Grid = getattr(self, field)
            if len(grid) != self.layers or any(len(row) != self.steps for row in grid):
                raise ValueError(f"{field} is not {self.layers} layers x {self.steps} steps")
        return self


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """A sensitivity run."""

    path: Path
    record: Record

    @property
    def layers(self) -> int:
        return self.record.layers

    @property
    def steps(self) -> dict[str, int]:
        """Names of the columns, steps of a block from 0, with the passes behind each."""
        *names, last = (str(step) for step in range(self.record.steps))
        return dict(zip([*names, f"{last}+"], self.record.passes, strict=True))

    def cells(self, field: str) -> list[dict[str, Any]]:
        """One row per measured cell: layer, step, value, and the passes behind it."""
        return [
            {
                "layer": layer,
                "step": step,
                "value": value,
                "passes": passes,
                "is_faded": passes < FEW_PASSES,
            }
            for layer, values in enumerate(getattr(self.record, field))
            for (step, passes), value in zip(self.steps.items(), values, strict=True)
            if value is not None
        ]

    def best_spans(self, most: int = 12) -> list[Span]:
        """Spans for which none saves as much with less damage, by rising saving."""
        ordered = sorted(self.record.spans, key=lambda s: (-s.saving, s.damage))
        best: list[Span] = []
        for span in ordered:
            if not best or span.damage < best[-1].damage:
                best.append(span)
        return best[::-1][:most]


def read_sensitivity(path: Path) -> Sensitivity:
    """Read a sensitivity record.

    Raises:
        UserError: missing, not JSON, of another schema version, or without a field that is shown.
    """
    try:
        return Sensitivity(path, Record.model_validate(read_json(path)))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{path}: {place}: {what}" if place else f"{path}: {what}") from None


def newest(paths: Sequence[Path], model_digest: str | None) -> tuple[Sensitivity | None, list[str]]:
    """The record to show, and what keeps others from being shown.

    A record carries no time, and a checkout gives files any, so of several the last by name counts;
    those of this model before others.
    """
    found, problems = [], []
    for path in sorted(paths):
        try:
            found.append(read_sensitivity(path))
        except UserError as error:
            problems.append(f"not shown: {error}")
    own = [one for one in found if one.record.model_digest == model_digest]
    chosen = own or found
    return (chosen[-1] if chosen else None), problems
