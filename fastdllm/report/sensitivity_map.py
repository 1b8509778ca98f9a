"""The record of `fastdllm sensitivity`, as the report shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fastdllm.common.errors import UserError
from fastdllm.common.files import read_json
from fastdllm.tools.sensitivity.record import MOST_STEPS, MeasuredSpan, SensitivityRecord

# The fields that are shown, in this order, with their titles.
MEASURES = (
    ("token_changed", "passes that would commit other tokens"),
    ("input_change", "relative change of the layer's input"),
    ("delta_change", "relative change of what the layer adds"),
)
# A mean over fewer passes is unreliable, so its cell is faded.
FEW_PASSES = 10


@dataclass(frozen=True, slots=True)
class SensitivityMap:
    """The record of a sensitivity run, and where it was read."""

    path: Path
    record: SensitivityRecord

    @property
    def layers(self) -> int:
        return self.record.layers

    @property
    def steps(self) -> dict[str, int]:
        """Names of the columns, the steps of a block from 0, with the passes measured for each."""
        names = [str(step) for step in range(self.record.steps)]
        if self.record.steps == MOST_STEPS:
            names[-1] += "+"
        return dict(zip(names, self.record.passes, strict=True))

    def cells(self, field: str) -> list[dict[str, Any]]:
        """Return a row per measured cell: layer, step, value, and passes."""
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

    def best_spans(self, most: int = 12) -> list[MeasuredSpan]:
        """Return the spans for which none saves as much with less damage, by rising saving."""
        ordered = sorted(self.record.spans, key=lambda s: (-s.saving, s.damage))
        best: list[MeasuredSpan] = []
        for span in ordered:
            if not best or span.damage < best[-1].damage:
                best.append(span)
        return best[::-1][:most]


def read_sensitivity(path: Path) -> SensitivityMap:
    """Read a sensitivity record.

    Raises:
        UserError: missing, not JSON, of another schema version, or without a field that is shown.
    """
    try:
        return SensitivityMap(path, SensitivityRecord.model_validate(read_json(path)))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{path}: {place}: {what}" if place else f"{path}: {what}") from None


def newest(
    paths: Sequence[Path], model_digest: str | None, *, is_exact: bool = False
) -> tuple[SensitivityMap | None, list[str]]:
    """Return the record to show, and why others cannot be shown.

    Records are undated, and a checkout changes the dates of files, so the last by name is taken;
    records of this model come before others.

    Args:
        is_exact: whether the digest is that of the model's files, so that others are of other ones.
    """
    readable, problems = [], []
    for path in sorted(paths):
        try:
            readable.append(read_sensitivity(path))
        except UserError as error:
            problems.append(f"not shown: {error}")
    chosen = [record for record in readable if record.record.model_digest == model_digest]
    if not is_exact:
        chosen = chosen or readable
    elif readable and not chosen:
        problems.append(
            f"not shown: {readable[-1].path}: measured on another model than the runs; `fastdllm "
            "sensitivity --publish` measures this one"
        )
    return (chosen[-1] if chosen else None), problems
