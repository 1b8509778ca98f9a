"""The state of each speed measurement; its files dated so that Snakemake plans the right jobs.

As with runs (reconcile.py): the spec is written, a published record is restored, and what belongs
to other settings is kept aside when something has to take its place, never in a dry run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from fastdllm.common.console import counted
from fastdllm.common.files import (
    EPOCH_S,
    cannot,
    date,
    date_after,
    json_object,
    read_text,
    stamp,
    to_json,
    write_if_changed,
    write_text_atomically,
)
from fastdllm.common.paths import RESULTS
from fastdllm.records.result_files import MARK_LETTERS, keep_aside
from fastdllm.records.speed_record import SpeedRecord, read_speed
from fastdllm.speed.speed_spec import rounds_path
from fastdllm.workflow.project.runs import Project
from fastdllm.workflow.project.speeds import SpeedMeasurement, speed_measurements

# Output of the rule `speed` for Snakemake, as reconcile.PUBLISHED_STAMP is of `aggregate`.
SPEEDS_STAMP = RESULTS / ".speeds_published"


class SpeedState(StrEnum):
    """The state of a measurement."""

    DONE = "done"
    UNPUBLISHED = "unpublished"
    STALE = "stale"
    MISSING = "missing"
    FORCED = "forced"


@dataclass(frozen=True, slots=True)
class SpeedStatus:
    """The state of a measurement, and how many of its sittings there are."""

    measurement: SpeedMeasurement
    state: SpeedState
    sittings: int
    is_only_published: bool = False

    @property
    def is_to_be_made(self) -> bool:
        """Whether something is to be measured, or combined."""
        return self.state in (SpeedState.STALE, SpeedState.MISSING, SpeedState.FORCED)

    @property
    def line(self) -> str:
        """Name, state and sittings, for people."""
        total = self.measurement.options.sittings
        begun = f", {self.sittings} of {total} sittings" if self.is_to_be_made else ""
        return f"{self.measurement.name}: {self.state}{begun}"


def speed_status(measurement: SpeedMeasurement) -> SpeedStatus:
    """Return the state of a measurement from its files; writes nothing."""
    sittings = sum(map(measurement.is_of, measurement.sitting_paths))
    published = measurement.limit is None and measurement.is_of(measurement.artifact_path)
    if measurement.is_of(measurement.record_path):
        is_same = published and read_text(measurement.artifact_path) == read_text(
            measurement.record_path
        )
        is_done = is_same or measurement.limit is not None
        state = SpeedState.DONE if is_done else SpeedState.UNPUBLISHED
        return SpeedStatus(measurement, state, sittings)
    if published:
        return SpeedStatus(measurement, SpeedState.DONE, sittings, is_only_published=True)
    is_there = measurement.record_path.exists() or (
        measurement.limit is None and measurement.artifact_path.exists()
    )
    return SpeedStatus(measurement, SpeedState.STALE if is_there else SpeedState.MISSING, sittings)


def reconcile_speeds(
    measurements: Sequence[SpeedMeasurement],
    *,
    is_repeated: Callable[[SpeedMeasurement], bool],
    held: Collection[str] = (),
    is_dry_run: bool = False,
) -> list[SpeedStatus]:
    """Date the files of all measurements; return their states.

    Args:
        is_repeated: whether a measurement is to be made even with a valid result.
        held: files that another Snakemake is making; their measurements are only looked at.

    Raises:
        UserError: results/ cannot be written.
    """
    statuses = []
    try:
        for measurement in measurements:
            status = speed_status(measurement)
            outputs = {str(path) for path in _outputs(measurement)}
            if outputs.isdisjoint(held):
                if is_repeated(measurement):
                    status = SpeedStatus(measurement, SpeedState.FORCED, 0)
                _reconcile(status, is_dry_run=is_dry_run)
            statuses.append(status)
        _date_stamp(statuses)
    except OSError as error:
        raise cannot("write", error.filename or RESULTS, error) from None
    return statuses


def speeds_preview(statuses: Sequence[SpeedStatus], *, is_dry_run: bool) -> str:
    """Return what a call measures: one line, and in a dry run one for each measurement."""
    if not statuses:
        return ""
    made = [status for status in statuses if status.is_to_be_made]
    missing = sum(status.measurement.options.sittings - status.sittings for status in made)
    unpublished = sum(status.state is SpeedState.UNPUBLISHED for status in statuses)
    line = f"fastdllm: {counted(len(statuses), 'speed')}, {counted(missing, 'sitting')} to measure"
    line += f", {unpublished} to publish" if unpublished else ""
    lines = [line, *(f"  {status.line}" for status in made if is_dry_run)]
    return "\n".join(lines) + "\n"


def measured_speeds(project: Project, *, published: bool = False) -> list[SpeedRecord]:
    """Return the valid records of the selected measurements.

    Args:
        published: those in artifacts/ only; else those in results/ come first.

    Raises:
        UserError: one is damaged, or was edited by hand.
    """
    records = []
    for measurement in speed_measurements(project):
        places = [] if published else [measurement.record_path]
        places += [measurement.artifact_path] if measurement.limit is None else []
        path = next(filter(measurement.is_of, places), None)
        records += [] if path is None else [read_speed(path)]
    return records


def publish_speeds(measurements: Sequence[SpeedMeasurement]) -> list[SpeedMeasurement]:
    """Copy the valid records into artifacts/; return the measurements whose copy changed."""
    return [
        m
        for m in measurements
        if m.limit is None
        and m.is_of(m.record_path)
        and write_if_changed(m.artifact_path, read_text(m.record_path))
    ]


def _outputs(measurement: SpeedMeasurement) -> list[Path]:
    return [*measurement.sitting_paths, measurement.record_path]


def _reconcile(status: SpeedStatus, *, is_dry_run: bool) -> None:
    measurement = status.measurement
    write_if_changed(measurement.spec_path, to_json(measurement.spec()))
    if status.is_only_published:
        _keep_others_aside(measurement, every=False)
        write_text_atomically(measurement.record_path, read_text(measurement.artifact_path))
    is_forced = status.state is SpeedState.FORCED
    if status.is_to_be_made and is_dry_run:
        for path in _outputs(measurement):
            if path.exists() and (is_forced or not measurement.is_of(path)):
                date_after(measurement.spec_path, path)
        return
    if status.is_to_be_made:
        _keep_others_aside(measurement, every=is_forced)
    date(measurement.spec_path, EPOCH_S)


def _keep_others_aside(measurement: SpeedMeasurement, *, every: bool) -> None:
    """Rename what belongs to other settings, or everything."""
    for path in _outputs(measurement):
        if path.exists() and (every or not measurement.is_of(path)):
            fingerprint = json_object(path).get("fingerprint")
            mark = fingerprint[:MARK_LETTERS] if isinstance(fingerprint, str) else "damaged"
            keep_aside(path, mark)
    if every:
        for number in range(measurement.options.sittings):
            keep_aside(rounds_path(measurement.folder, number + 1), "forced")


def _date_stamp(statuses: Sequence[SpeedStatus]) -> None:
    """Date or remove the output of `speed`, so that Snakemake knows whether to publish."""
    full = [status for status in statuses if status.measurement.limit is None]
    if not full or any(status.state is not SpeedState.DONE for status in full):
        SPEEDS_STAMP.unlink(missing_ok=True)
        return
    stamp(SPEEDS_STAMP, (status.measurement.record_path for status in full))
