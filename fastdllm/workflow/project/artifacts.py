"""The git-tracked copies of finished summaries: read, publish, list.

A fresh clone restores finished runs from the summaries in artifacts/. Files are replaced whole, and
only when their content differs, so git shows real changes only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from fastdllm.common.errors import UserError, error_line
from fastdllm.common.files import cannot, json_of, read_text, write_if_changed
from fastdllm.common.paths import ARTIFACTS, task_folder
from fastdllm.records import bits
from fastdllm.records.item_groups import with_names
from fastdllm.records.result_files import (
    SUMMARY_SCHEMA_VERSION,
    named_by_place,
    table_mark,
    take_digest,
)
from fastdllm.records.summary import Summary
from fastdllm.validation import validated
from fastdllm.workflow.project.runs import Run

NEEDED_KEYS = {name for name, field in Summary.model_fields.items() if field.is_required()}


@dataclass(frozen=True)
class StoredSummary:
    """A summary.json on disk: its record, or why it cannot be used. Neither: no such file."""

    record: dict[str, Any] | None = None
    problem: str | None = None
    path: Path | None = None

    @cached_property
    def summary(self) -> Summary:
        """The record, checked; only if there is one.

        Raises:
            UserError: it is not a whole summary.
        """
        assert self.record is not None
        return validated(Summary, self.record, str(self.path))

    def belongs_to(self, run: Run) -> bool:
        """Whether it was made with exactly the run's current settings.

        A copy of another run's result does not count for a run that must be decoded itself, or that
        is another computation by the current rules.
        """
        record = self.record
        if record is None or record["fingerprint"] != run.fingerprint:
            return False
        is_same = record.get("computation") == run.computation and not run.is_replicated
        return record["decides"] == run.decides and (is_same or "same_as" not in record)


def stored_summary(path: Path) -> StoredSummary:
    """Read a summary; an empty, torn or foreign file is a problem to report, not an error."""
    return SummaryReader()(path)


@dataclass(slots=True)
class SummaryReader:
    """Reads a project's summaries (see `stored_summary`), each once, for one command.

    Many runs ask for the one that they are copied from, and a published summary has the content of
    the one in results/, so that only one of both is parsed.
    """

    _known: dict[Path, StoredSummary] = field(default_factory=dict)
    _contents: dict[tuple[object, ...], StoredSummary] = field(default_factory=dict)

    def __call__(self, path: Path) -> StoredSummary:
        """Return the summary at `path` as it was when it was first asked for."""
        known = self._known.get(path)
        if known is None:
            known = self._known[path] = self._read(path)
        return known

    def copied(self, path: Path, copy: Path) -> None:
        """Take note that `copy` has been given the content of `path`."""
        self._known[copy] = self(path)

    def _read(self, path: Path) -> StoredSummary:
        try:
            content = path.read_bytes()
        except OSError as error:
            if not path.exists():
                return StoredSummary()
            return StoredSummary(problem=str(cannot("read", path, error)))
        # What a summary says also depends on the names of its folder.
        key = (content, *path.parts[-4:-1])
        if key in self._contents:
            return self._contents[key]
        stored = _parsed(content, path)
        if stored.problem is None:  # which names the file
            self._contents[key] = stored
        return stored


def _parsed(content: bytes, path: Path) -> StoredSummary:
    try:
        record = json_of(content, path)
    except UserError as error:
        return StoredSummary(problem=str(error))
    problem = _problem_of(record) or take_digest(record)
    if problem:
        return StoredSummary(problem=f"{path}: {problem}")
    return StoredSummary(record=named_by_place(with_names(record), path), path=path)


def _problem_of(record: Any) -> str | None:
    if not isinstance(record, dict) or not isinstance(record.get("fingerprint"), str):
        return "not a summary (it has no fingerprint)"
    version, missing = record.get("schema_version"), sorted(NEEDED_KEYS - record.keys())
    if version != SUMMARY_SCHEMA_VERSION:
        return f"schema_version {version!r} is not {SUMMARY_SCHEMA_VERSION}"
    if missing:
        return f"not a complete summary (it has no {missing[0]})"
    try:
        if items := record.get("items"):
            bits.as_number(items["n"], items["correct_bits"])
            with_names(record)
    except (ValueError, TypeError, KeyError) as error:
        return f"its items cannot be read ({error_line(error)})"
    return None


def origin_of(record: Mapping[str, Any] | None, run: Run) -> str | None:
    """Return the name of the run that a summary was copied from, None if it was decoded."""
    same_as = (record or {}).get("same_as")
    if not isinstance(same_as, Mapping):
        return None
    folder = task_folder(str(same_as.get("task")), run.limit)
    return f"{same_as.get('experiment')}/{folder}/{same_as.get('config')}"


def is_older(copy: Mapping[str, Any] | None, origin: Mapping[str, Any] | None) -> bool:
    """Whether the run that a copy was made from has been decoded again since.

    Args:
        origin: the valid summary of that run, where there is one.
    """
    if copy is None or origin is None or "same_as" in origin:
        return False
    is_same = copy.get("computation") == origin.get("computation")
    return is_same and copy.get("timestamp") != origin.get("timestamp")


def current_summary(
    run: Run, by_name: Mapping[str, Run], read: SummaryReader
) -> StoredSummary | None:
    """Return the summary of the run's current settings, in results/ or else in artifacts/.

    Args:
        by_name: the runs of the whole project, to find the one that it was copied from.
    """
    current = (path for path in _places(run) if _is_current(path, run, by_name, _places, read))
    return next(map(read, current), None)


def _places(run: Run) -> tuple[Path, ...]:
    return (run.summary_path,) if run.limit is not None else (run.summary_path, run.artifact_path)


def _published_place(run: Run) -> tuple[Path, ...]:
    return (run.artifact_path,)


def _is_current(
    path: Path,
    run: Run,
    by_name: Mapping[str, Run],
    places: Callable[[Run], Iterable[Path]],
    read: SummaryReader,
) -> bool:
    """Whether a summary is valid, and no copy of an earlier result than the one in `places`."""
    summary = read(path)
    if not summary.belongs_to(run):
        return False
    origin = by_name.get(origin_of(summary.record, run) or "")
    if origin is None:
        return True
    stored = map(read, places(origin))
    return not is_older(
        summary.record, next((s.record for s in stored if s.belongs_to(origin)), None)
    )


def publish(runs: Sequence[Run], read: SummaryReader | None = None) -> list[Run]:
    """Copy the valid summaries of `runs` into artifacts/; return the runs whose copy changed.

    Limited runs stay in results/: a handful of items is a trial, not a result to keep. So does a
    copy whose origin was decoded again since.
    """
    read = read or SummaryReader()
    changed = []
    by_name = {run.name: run for run in runs}
    for run in runs:
        path = run.summary_path
        if run.limit is not None or not _is_current(path, run, by_name, _places, read):
            continue
        # A copy that a power failure damages differs from its origin, and is made again.
        if write_if_changed(run.artifact_path, read_text(path), is_flushed=False):
            changed.append(run)
        read.copied(path, run.artifact_path)
    return changed


def published(runs: Sequence[Run], read: SummaryReader | None = None) -> list[Run]:
    """Return the runs whose artifact belongs to their current settings, in order."""
    read = read or SummaryReader()
    by_name = {run.name: run for run in runs}
    return [
        run for run in runs if _is_current(run.artifact_path, run, by_name, _published_place, read)
    ]


def tables_are_current(
    runs: Sequence[Run], experiments: Iterable[str], read: SummaryReader | None = None
) -> bool:
    """Whether the tables of `experiments` show the artifacts of `runs` (all runs) as they are."""
    read = read or SummaryReader()
    shown = published(runs, read)
    for experiment in experiments:
        summaries = [read(run.artifact_path) for run in shown if run.experiment == experiment]
        records = [summary.record for summary in summaries if summary.record is not None]
        table, csv = (ARTIFACTS / experiment / name for name in ("table.md", "table.csv"))
        if not summaries and not table.exists():
            continue  # nothing of it is published yet
        try:
            text = table.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return False
        # Of an experiment that was renamed, its table may have come along.
        is_own = text.startswith(f"# {experiment}\n")
        if not is_own or table_mark(records) not in text or not csv.exists():
            return False
    return True


def left_over(runs: Sequence[Run]) -> list[Path]:
    """Return artifacts of the runs' experiments that belong to no run (a renamed config, ...)."""
    current = {run.artifact_path for run in runs}
    folders = sorted({ARTIFACTS / run.experiment for run in runs})
    summaries = [path for folder in folders for path in sorted(folder.glob("*/*/summary.json"))]
    return [path for path in summaries if path not in current]
