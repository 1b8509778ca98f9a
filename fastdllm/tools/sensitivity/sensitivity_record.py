"""The record of a sensitivity measurement, made from its passes: written here, read by the report.

Means by layer and step, damage by span. Imports no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from fastdllm.common.files import write_json_atomically, write_text_atomically
from fastdllm.tools.sensitivity.layer_spans import MeasuredSpan, Value
from fastdllm.validation import StrictModel

if TYPE_CHECKING:
    from fastdllm.tools.sensitivity.measurement import MeasuredPasses
    from fastdllm.tools.sensitivity.probed_policy import PassLog

DIGITS = 6
# Columns: a block of 32 has up to 32 passes, and the last column is for all the others.
MOST_STEPS = 12

Grid = list[list[Value | None]]
GRIDS = ("input_change", "delta_change", "token_changed")


class SensitivityRecord(StrictModel):
    """What replacing layers does to single passes along the plain trajectory.

    Grids are [layer][step], step being the denoising step in the block, the last one that or later;
    null where no sub-block pass was measured.
    """

    schema_version: Literal[1] = 1
    model: str = Field(description="Folder as given, or hub id.")
    model_digest: str = Field(description="Digest of the checkpoint, or its revision.")
    model_commit: str | None = Field(None, description="Of a model of the hub; absent: unknown.")
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


def grids(passes: Sequence[PassLog], num_layers: int) -> dict[str, Any]:
    """`steps`, `passes` and the three grids; the first `num_layers` spans are the single layers."""
    steps = min(max(log.step for log in passes) + 1, MOST_STEPS)
    bins = [[log for log in passes if min(log.step, steps - 1) == s] for s in range(steps)]
    return {
        "layers": num_layers,
        "steps": steps,
        "passes": [len(logs) for logs in bins],
        **{
            name: [
                [_mean(getattr(log, key)[layer] for log in logs) for logs in bins]
                for layer in range(num_layers)
            ]
            for name, key in (
                ("input_change", "input_change"),
                ("delta_change", "delta_change"),
                ("token_changed", "changed"),
            )
        },
    }


def damages(measured: MeasuredPasses, num_layers: int) -> list[MeasuredSpan]:
    """Saving and damage of each measured span."""
    spans = []
    for index, (start, stop) in enumerate(measured.spans):
        damage = _mean(log.changed[index] for log in measured.passes)
        assert damage is not None
        saving = round((stop - start) / num_layers, DIGITS)
        spans.append(MeasuredSpan(layers=(start, stop), saving=saving, damage=damage))
    return spans


def _mean(values: Iterable[float]) -> float | None:
    finite = [float(value) for value in values if math.isfinite(value)]
    return round(sum(finite) / len(finite), DIGITS) if finite else None


def write_record(record: SensitivityRecord, path: Path) -> None:
    """Write the record as JSON."""
    values = record.model_dump(mode="json")
    for name in ("git", "model_commit"):
        if values[name] is None:
            del values[name]
    write_json_atomically(path, values)


def write_log(measured: MeasuredPasses, num_layers: int, path: Path) -> None:
    """Write one JSON line per sub-block pass, with the figures of every single layer."""
    lines = []
    for log in measured.passes:
        values = {
            key: [_rounded(v) for v in value] if isinstance(value, tuple) else value
            for key, value in asdict(log).items()
        }
        values["token_changed"] = values.pop("changed")[:num_layers]
        lines.append(json.dumps(values, allow_nan=False))
    write_text_atomically(path, "\n".join(lines) + "\n")


def _rounded(value: float) -> float | bool | None:
    if isinstance(value, bool):
        return value
    return round(value, DIGITS) if math.isfinite(value) else None
