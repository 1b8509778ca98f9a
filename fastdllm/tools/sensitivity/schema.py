"""The record of a sensitivity measurement: what is written, and what the report reads.

Imports no torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from fastdllm.tools.sensitivity.spans import SpanDamage
from fastdllm.validation import StrictModel

# Columns: a block of 32 has up to 32 passes, and the last column is for all the others.
MOST_STEPS = 12

Value = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Grid = list[list[Value | None]]
GRIDS = ("input_change", "delta_change", "token_changed")


class MeasuredSpan(StrictModel):
    """One span of layers."""

    layers: tuple[int, int] = Field(description="Half-open range, as in layer_subset.")
    saving: Value = Field(description="Share of the layers of a pass that are not run.")
    damage: Value = Field(description="Share of sub-block passes whose committed tokens change.")


class Sensitivity(StrictModel):
    """What replacing layers does to single passes along the plain trajectory.

    Grids are [layer][step], step being the denoising step in the block, the last one that or later;
    null where no sub-block pass was measured.
    """

    schema_version: Literal[1] = 1
    model: str = Field(description="Folder as given, or hub id.")
    model_digest: str = Field(description="Digest of the checkpoint, or its revision.")
    n_items: int = Field(description="Calibration items decoded.")
    data: str = Field(description="Name of the file of calibration items.")
    data_digest: str = Field(description="Digest of the items used.")
    layers: int = Field(ge=1, description="Number of layers, L.")
    steps: int = Field(ge=1, description="Number of columns, S.")
    passes: list[Annotated[int, Field(ge=0)]] = Field(
        description="Sub-block passes measured per step, [S]."
    )
    input_change: Grid = Field(description="Mean relative change of the layer's input, [L x S].")
    delta_change: Grid = Field(description="The same of its output minus input, [L x S].")
    token_changed: Grid = Field(
        description="Share of passes whose committed tokens change when the layer is replaced."
    )
    spans: list[MeasuredSpan] = Field(description="Spans of layers, single ones first.")
    decoding: dict[str, Any] = Field(description="Decoding settings that differ from the default.")
    dtype: str
    hardware: str
    git: dict[str, Any] | None = Field(None, description="Commit, and whether files differ.")

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if len(self.passes) != self.steps:
            raise ValueError(f"passes has {len(self.passes)} entries for {self.steps} steps")
        for name in GRIDS:
            grid: Grid = getattr(self, name)
            if len(grid) != self.layers or any(len(row) != self.steps for row in grid):
                raise ValueError(f"{name} is not {self.layers} layers x {self.steps} steps")
        return self

    @property
    def damages(self) -> list[SpanDamage]:
        """The spans, for `least_damage`."""
        return [SpanDamage(s.layers, s.saving, s.damage) for s in self.spans]
