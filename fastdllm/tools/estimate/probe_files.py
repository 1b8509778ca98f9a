"""What probes measured: results/_probes/<hardware>.json, one file for each device.

A probe adds to what earlier ones found; what it measures again replaces the older figure. Imports
no torch; fastdllm/tools/estimate/timing.py does the measuring.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from fastdllm.common.errors import UserError
from fastdllm.common.files import read_json, write_json_atomically
from fastdllm.common.paths import RESULTS
from fastdllm.runs.lock import run_lock
from fastdllm.tools.estimate.hardware import Hardware

PROBES = RESULTS / "_probes"
SCHEMA_VERSION = 1
# What a newer measurement of the same takes the place of.
IDENTITY = ("experiment", "task", "config", "settings", "model", "model_digest", "batch_size")


@dataclass(frozen=True, slots=True)
class Measurement:
    """How fast one config answered requests of one task.

    settings: digest of all that decides the answers but the limit.
    dtype: as asked for in workflow_config.yaml; resolved_dtype: what the model ran in.
    batch_size: most sequences (inputs, for log-likelihoods) that were decoded at once.
    seconds: of decoding `items` requests, without loading, warm-up and recording of shapes.
    startup_s: loading and warm-up. time: UTC, ISO 8601.
    """

    experiment: str
    task: str
    config: str
    limit: int | None
    settings: str
    model: str
    model_digest: str
    dtype: str
    resolved_dtype: str
    batch_size: int
    items: int
    seconds: float
    startup_s: float
    time: str


def probe_path(hardware: Hardware) -> Path:
    """The file of one device."""
    return PROBES / ("-".join(re.findall(r"[a-z0-9]+", str(hardware).lower())) + ".json")


def add_measurements(hardware: Hardware, *found: Measurement) -> Path:
    """Add to the file of a device, while no other probe does; return its path.

    Raises:
        UserError: it cannot be written; a damaged one is replaced.
    """
    path = probe_path(hardware)
    with run_lock(PROBES, wait=True):
        known = [measurement for _, measurement in _read(path)]
        merged = {_identity(one): one for one in [*known, *found]}
        record = {
            "schema_version": SCHEMA_VERSION,
            "hardware": asdict(hardware),
            "measurements": [asdict(one) for one in merged.values()],
        }
        write_json_atomically(path, record)
    return path


def read_probes() -> list[tuple[Hardware, Measurement]]:
    """All measurements of all devices; a file that cannot be used has none."""
    return [one for path in sorted(PROBES.glob("*.json")) for one in _read(path)]


def _read(path: Path) -> Iterable[tuple[Hardware, Measurement]]:
    try:
        record: Any = read_json(path)
        if record["schema_version"] != SCHEMA_VERSION:
            return []
        names = {field.name for field in fields(Measurement)}
        hardware = Hardware(**record["hardware"])
        found = [Measurement(**{n: one[n] for n in names}) for one in record["measurements"]]
    except (UserError, KeyError, TypeError):
        return []
    return [(hardware, measurement) for measurement in found]


def _identity(measurement: Measurement) -> tuple[Any, ...]:
    return tuple(getattr(measurement, name) for name in IDENTITY)
