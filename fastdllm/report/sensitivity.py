"""The record of `fastdllm sensitivity`, as the report needs it. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdllm.errors import UserError
from fastdllm.files import read_json

SCHEMA_VERSION = 1
# What is shown, in this order: field and words. The last column stands for all later steps too.
MEASURES = (
    ("token_changed", "passes that would commit other tokens"),
    ("input_change", "relative change of the layer's input"),
    ("delta_change", "relative change of what the layer adds"),
)


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """A sensitivity run: `record` as in docs/sensitivity.md."""

    path: Path
    record: dict[str, Any]

    @property
    def layers(self) -> int:
        return int(self.record["layers"])

    @property
    def steps(self) -> list[str]:
        """Names of the columns: steps of a block, from 0."""
        names = [str(step) for step in range(int(self.record["steps"]))]
        return [*names[:-1], f"{names[-1]}+"]

    def cells(self, field: str) -> list[dict[str, Any]]:
        """One row per measured cell: layer, step, value, and the passes behind it."""
        return [
            {"layer": layer, "step": step, "value": value, "passes": passes}
            for layer, values in enumerate(self.record[field])
            for step, value, passes in zip(self.steps, values, self.record["passes"], strict=True)
            if value is not None
        ]

    def best_spans(self, most: int = 12) -> list[dict[str, Any]]:
        """Spans for which none saves as much with less damage, by rising saving."""
        ordered = sorted(self.record["spans"], key=lambda s: (-s["saving"], s["damage"]))
        best: list[dict[str, Any]] = []
        for span in ordered:
            if not best or span["damage"] < best[-1]["damage"]:
                best.append(span)
        return best[::-1][:most]


def read_sensitivity(path: Path) -> Sensitivity:
    """Read a sensitivity record.

    Raises:
        UserError: missing, not JSON, or of another schema version.
    """
    record = read_json(path)
    version = record.get("schema_version") if isinstance(record, dict) else None
    if version != SCHEMA_VERSION:
        raise UserError(f"{path}: schema_version {version!r} is not {SCHEMA_VERSION}")
    return Sensitivity(path, record)


def newest(paths: Sequence[Path], model_digest: str | None) -> Sensitivity | None:
    """The record of this model if there is one, else the newest; None without any."""
    found = [read_sensitivity(path) for path in sorted(paths, key=lambda p: p.stat().st_mtime)]
    own = [one for one in found if one.record.get("model_digest") == model_digest]
    chosen = own or found
    return chosen[-1] if chosen else None
