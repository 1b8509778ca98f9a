"""Whether a run has its result, and whether that is to be made anew; imports no torch."""

from __future__ import annotations

from pathlib import Path

from fastdllm.common.errors import UserError
from fastdllm.common.files import cannot, read_json, write_text_atomically
from fastdllm.results.result_files import stored_fingerprint
from fastdllm.results.summary import Summary, read_summary
from fastdllm.runs.shards import stamps
from fastdllm.runs.spec import RunSpec


def finished_summary(folder: Path, spec: RunSpec) -> Summary | None:
    """The summary of exactly these settings, if the run has one."""
    path = folder / "summary.json"
    if stored_fingerprint(path) != spec.fingerprint:
        return None
    try:
        return read_summary(path)
    except UserError:
        return None


def is_dated_for_a_repeat(folder: Path) -> bool:
    """Whether the spec is dated after the result, as the workflow dates runs that are forced."""
    spec, summary = folder / "spec.json", folder / "summary.json"
    return spec.exists() and spec.stat().st_mtime > summary.stat().st_mtime


def result_dated_after(spec_path: Path, spec: RunSpec) -> Summary | None:
    """The result of a run, dated after its parts; None where it is still to be made.

    The workflow holds summary.json against the spec, the stamps of the shards and the report of the
    pack, and takes it for old when one of them is newer. The caller holds the run's lock.

    Raises:
        UserError: it cannot be dated.
    """
    folder = spec_path.parent
    summary = finished_summary(folder, spec)
    if summary is None or is_dated_for_a_repeat(folder):
        return None
    path = folder / "summary.json"
    results = spec_path.absolute().parents[3]
    reports = (r for r in results.glob("_packs/*/report.json") if _names(r, spec_path))
    try:
        parts = [spec_path, *stamps(folder), *reports]
        newest = max(part.stat().st_mtime_ns for part in parts)
        if path.stat().st_mtime_ns <= newest:
            write_text_atomically(path, path.read_text(encoding="utf-8"))
    except OSError as error:
        raise cannot("read", path, error) from None
    return summary


def _names(report: Path, spec_path: Path) -> bool:
    """Whether the report of a pack tells of a run."""
    try:
        record = read_json(report)
        return any(member["spec"] == str(spec_path) for member in record["members"])
    except (UserError, KeyError, TypeError):
        return False
