"""From the passes of a measurement to its record: means by layer and step, damage by span."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastdllm.common.files import write_json_atomically, write_text_atomically
from fastdllm.tools.sensitivity.measure import Measured
from fastdllm.tools.sensitivity.probed_policy import PassLog
from fastdllm.tools.sensitivity.schema import MOST_STEPS, MeasuredSpan, Sensitivity

DIGITS = 6


def grids(passes: Sequence[PassLog], num_layers: int) -> dict[str, Any]:
    """`steps`, `passes` and the three grids; the first `num_layers` spans are the single layers."""
    steps = min(max(log.step for log in passes) + 1, MOST_STEPS)
    bins = [[log for log in passes if min(log.step, steps - 1) == s] for s in range(steps)]
    return {
        "layers": num_layers,
        "steps": steps,
        "passes": [len(own) for own in bins],
        **{
            name: [
                [_mean(getattr(log, key)[layer] for log in own) for own in bins]
                for layer in range(num_layers)
            ]
            for name, key in (
                ("input_change", "input_change"),
                ("delta_change", "delta_change"),
                ("token_changed", "changed"),
            )
        },
    }


def damages(measured: Measured, num_layers: int) -> list[MeasuredSpan]:
    """Saving and damage of each measured span."""
    found = []
    for index, (start, stop) in enumerate(measured.spans):
        damage = _mean(log.changed[index] for log in measured.passes)
        assert damage is not None
        saving = round((stop - start) / num_layers, DIGITS)
        found.append(MeasuredSpan(layers=(start, stop), saving=saving, damage=damage))
    return found


def _mean(values: Iterable[float]) -> float | None:
    known = [float(value) for value in values if math.isfinite(value)]
    return round(sum(known) / len(known), DIGITS) if known else None


def write_record(record: Sensitivity, path: Path) -> None:
    """Write the record as JSON."""
    values = record.model_dump(mode="json")
    if record.git is None:
        del values["git"]
    write_json_atomically(path, values)


def write_log(measured: Measured, num_layers: int, path: Path) -> None:
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
