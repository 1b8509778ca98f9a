"""From the sittings of a measurement to its record: checked, estimated, written. Loads no model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastdllm.common.errors import UserError
from fastdllm.common.files import json_object, read_json
from fastdllm.records.result_files import keep_aside
from fastdllm.records.speed_record import Sitting, SpeedRecord, write_speed
from fastdllm.speed.speed_spec import SpeedSpec, record_path, sitting_path
from fastdllm.statistics.measured_speed import estimates_of, failed_checks
from fastdllm.validation import validated


def read_sitting(folder: Path, number: int, spec: SpeedSpec) -> Sitting:
    """Read a complete sitting of a measurement.

    Raises:
        UserError: it is missing, damaged, or of another spec.
    """
    path = sitting_path(folder, number)
    values = read_json(path)
    fingerprint = values.pop("fingerprint", None) if isinstance(values, dict) else None
    if fingerprint != spec.fingerprint:
        raise UserError(f"{path}: measured with other settings; type snakemake speed again")
    return validated(Sitting, values, str(path))


def combine(spec: SpeedSpec, folder: Path) -> SpeedRecord:
    """Write the record of all sittings beside the folder of the spec, and return it.

    Raises:
        UserError: a sitting is missing, or they were not measured under the same conditions.
    """
    sittings = [read_sitting(folder, n + 1, spec) for n in range(spec.sittings)]
    _check_alike(sittings, spec)
    record = SpeedRecord(
        experiment=spec.experiment,
        task=spec.task,
        limit=spec.limit,
        fingerprint=spec.fingerprint,
        decides=spec.decides,
        baseline=spec.baseline,
        estimates=estimates_of(sittings, spec.baseline),
        failed_checks=failed_checks(sittings, spec.baseline),
        sittings=sittings,
    )
    path = record_path(folder)
    if json_object(path).get("fingerprint") not in (None, spec.fingerprint):
        keep_aside(path, str(json_object(path)["fingerprint"])[:8])
    write_speed(path, record)
    return record


def _check_alike(sittings: Sequence[Sitting], spec: SpeedSpec) -> None:
    """Refuse sittings on different hardware, in different dtypes, or by different code."""
    first = sittings[0]
    for other in sittings[1:]:
        for what, old, new in _conditions(first, other):
            if old != new:
                raise UserError(
                    f"{spec.label}: sittings 1 and {other.number} differ in {what} ({old} and "
                    f"{new}), so they are no sittings of one measurement; measure all again: "
                    f"snakemake speed --forcerun speed --config experiment={spec.experiment} "
                    f"task={spec.task}"
                )


def _conditions(first: Sitting, other: Sitting) -> list[tuple[str, Any, Any]]:
    versions = {
        name
        for name in first.environment.keys() | other.environment.keys()
        if first.environment.get(name) != other.environment.get(name)
    }
    return [
        ("hardware", _words(first), _words(other)),
        ("dtype", first.dtype, other.dtype),
        ("code", first.code_digest[:8], other.code_digest[:8]),
        *(
            (f"the version of {name}", first.environment.get(name), other.environment.get(name))
            for name in sorted(versions)
        ),
    ]


def _words(sitting: Sitting) -> str:
    threads = sitting.hardware.threads
    return sitting.hardware.name + (f", {threads} thread(s)" if threads else "")
