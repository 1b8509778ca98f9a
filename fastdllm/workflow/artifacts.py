"""The git-tracked copies of finished summaries: read, publish, list.

A summary in artifacts/ is what a fresh clone takes a finished run from. Files are replaced as a
whole, and only when their content differs, so git shows a change only where there is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdllm.errors import UserError
from fastdllm.evaluation.results import SUMMARY_SCHEMA_VERSION, table_mark
from fastdllm.files import cannot, read_json, write_text_atomically
from fastdllm.workflow.runs import ARTIFACTS, Run

# The required fields of evaluation/summary.py, which takes longer to import than status has.
NEEDED_KEYS = frozenset(
    [
        "experiment",
        "task",
        "config",
        "timestamp",
        "fingerprint",
        "decides",
        "accuracy",
        "metrics",
        "peak_memory",
        "load_time_s",
        "warm_up_s",
        "resumed",
        "dtype",
        "hardware",
        "environment",
        "model_args",
        "eval_params",
    ]
)


@dataclass(frozen=True, slots=True)
class StoredSummary:
    """A summary.json on disk: its record, or why it cannot be used. Neither: no such file."""

    record: dict[str, Any] | None = None
    problem: str | None = None

    def belongs_to(self, run: Run) -> bool:
        """Whether it was made with exactly the run's current settings.

        A copy of another run's result is none of a run that is to be decoded itself, or of one that
        is another computation by the rules of today.
        """
        if self.record is None or self.record.get("fingerprint") != run.fingerprint:
            return False
        is_same = self.record.get("computation") == run.computation and not run.is_replicated
        return "same_as" not in self.record or is_same


def stored_summary(path: Path) -> StoredSummary:
    """Read a summary; an empty, torn or foreign file is a problem to report, not an error."""
    if not path.exists():
        return StoredSummary()
    try:
        record = read_json(path)
    except UserError as error:
        return StoredSummary(problem=str(error))
    if not isinstance(record, dict) or not isinstance(record.get("fingerprint"), str):
        return StoredSummary(problem=f"{path}: not a summary (it has no fingerprint)")
    version, missing = record.get("schema_version"), sorted(NEEDED_KEYS - record.keys())
    if version != SUMMARY_SCHEMA_VERSION:
        wanted = f"is not {SUMMARY_SCHEMA_VERSION}"
        return StoredSummary(problem=f"{path}: schema_version {version!r} {wanted}")
    if missing:
        return StoredSummary(problem=f"{path}: not a whole summary (it has no {missing[0]})")
    return StoredSummary(record=record)


def current_summary(run: Run) -> Path | None:
    """The summary of the run's current settings, in results/ or else in artifacts/."""
    places = (run.summary_path,) if run.limit is not None else (run.summary_path, run.artifact_path)
    return next((path for path in places if stored_summary(path).belongs_to(run)), None)


def publish(runs: Sequence[Run]) -> list[Run]:
    """Copy the valid summaries of `runs` into artifacts/; return the runs whose copy changed.

    Limited runs stay in results/: a handful of items is a trial, not a result to keep.
    """
    changed = []
    for run in runs:
        if run.limit is not None or not stored_summary(run.summary_path).belongs_to(run):
            continue
        text = _text(run.summary_path)
        if not run.artifact_path.exists() or _text(run.artifact_path) != text:
            write_text_atomically(run.artifact_path, text)
            changed.append(run)
    return changed


def published(runs: Sequence[Run]) -> list[Run]:
    """The runs whose artifact belongs to their current settings, in their order."""
    return [run for run in runs if stored_summary(run.artifact_path).belongs_to(run)]


def tables_are_current(runs: Sequence[Run], experiments: Iterable[str]) -> bool:
    """Whether the tables of `experiments` show the artifacts of `runs` (all runs) as they are."""
    for experiment in experiments:
        own = [run for run in runs if run.experiment == experiment]
        stored = [(run, stored_summary(run.artifact_path)) for run in own]
        records = [found.record for run, found in stored if found.record and found.belongs_to(run)]
        table, csv = (ARTIFACTS / experiment / name for name in ("table.md", "table.csv"))
        try:
            if table_mark(records) not in table.read_text(encoding="utf-8") or not csv.exists():
                return False
        except (OSError, UnicodeDecodeError):
            return False
    return True


def left_over(runs: Sequence[Run]) -> list[Path]:
    """Artifacts of the runs' experiments that belong to no run (a renamed config, an old task)."""
    current = {run.artifact_path for run in runs}
    folders = sorted({ARTIFACTS / run.experiment for run in runs})
    found = [path for folder in folders for path in sorted(folder.glob("*/*/summary.json"))]
    return [path for path in found if path not in current]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise cannot("read", path, error) from None
