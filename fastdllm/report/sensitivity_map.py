"""The record of `fastdllm sensitivity`, as the report shows it."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fastdllm.common.errors import UserError
from fastdllm.common.files import read_json
from fastdllm.tools.sensitivity.sensitivity_record import (
    MOST_STEPS,
    MeasuredSpan,
    SensitivityRecord,
)
from fastdllm.workflow.project.config_files import ModelChoice

# The fields that are shown, in this order, with their titles.
MEASURES = (
    ("token_changed", "passes that would commit other tokens"),
    ("input_change", "relative change of the layer's input"),
    ("delta_change", "relative change of what the layer adds"),
)
# A mean over fewer passes is unreliable, so its cell is faded.
FEW_PASSES = 10
# Of a digest of files; commits of the hub have 40.
DIGEST_LETTERS = 64


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
    paths: Sequence[Path], model: ModelChoice, decides: Mapping[str, Any], commits: Collection[str]
) -> tuple[SensitivityMap | None, list[str]]:
    """Return the record of the runs' model, and why others cannot be shown.

    Records are undated, and a checkout changes the dates of files, so the last by name is taken.

    Args:
        model: of the project. decides: of a run, which names the model that it is. commits: of a
            model of the hub, those that decoded the runs, where it is known.
    """
    problems: list[str] = []
    chosen: list[SensitivityMap] = []
    others: list[SensitivityMap] = []
    for path in sorted(paths):
        try:
            found = read_sensitivity(path)
        except UserError as error:
            problems.append(f"not shown: {error}")
        else:
            (chosen if _is_of(found.record, decides, commits) else others).append(found)
    if others and not chosen:
        revision = ["--revision", model.revision] if model.revision else []
        command = shlex.join(["sensitivity", "--publish", "--model", model.path, *revision])
        problems += [
            f"not shown: {other.path}: measured on {other.record.model} "
            f"({(other.record.model_commit or other.record.model_digest)[:8]}), another model than "
            f"that of the runs; `fastdllm {command}` measures this one"
            for other in others
        ]
    return (chosen[-1] if chosen else None), problems


def _is_of(record: SensitivityRecord, decides: Mapping[str, Any], commits: Collection[str]) -> bool:
    """Whether runs have its model: a folder of its digest, or its hub id and commit or revision."""
    name, version = decides["model"], record.model_digest
    if name == "local":
        return bool(version == decides["model_digest"])
    if commits and record.model_commit is not None:
        return record.model == name and record.model_commit in commits
    if len(version) == DIGEST_LETTERS:
        version = "main"  # measured without --revision: the digest of the files that main had
    return (record.model, version) == (name, decides["model_digest"])
