"""The result of a run: whether it exists and stays, how it is written, what is printed about it.

Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdllm.common.errors import UserError
from fastdllm.common.files import cannot, read_json, write_json_atomically, write_text_atomically
from fastdllm.records.result_files import keep_result_aside, stored_fingerprint
from fastdllm.records.summary import Summary, read_summary, write_summary
from fastdllm.runs.shards import Shard, stamps
from fastdllm.runs.spec import RunSpec

if TYPE_CHECKING:
    from fastdllm.runs.scoring import Scores


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a run; is_new: False if the run had it already and nothing was done."""

    summary: Summary
    unused_answers: int = 0
    is_new: bool = True

    def lines(self, folder: Path) -> list[str]:
        """The lines to print when the command ends."""
        primary = self.summary.primary
        lines = [f"{primary.metric} {self.summary.accuracy:.4f} -> {folder / 'summary.json'}"]
        if not self.is_new:
            lines[0] += " (already done; --again repeats it)"
        if self.unused_answers:
            lines.append(f"warning: {self.unused_answers} answers belong to no item of the task")
        return lines


@dataclass(frozen=True, slots=True)
class ShardOutcome:
    """The outcome of a shard.

    n_chunks: chunks of the shard. n_decoded: how many of them this process decoded.
    run: the result of the run, if this shard finished it or it had one; otherwise `waits_for`
        says what the run lacks.
    """

    shard: Shard
    n_chunks: int
    n_decoded: int = 0
    run: Outcome | None = None
    waits_for: str = ""

    def lines(self, folder: Path) -> list[str]:
        """The lines to print when the command ends."""
        chunks = "1 chunk" if self.n_chunks == 1 else f"{self.n_chunks} chunks"
        line = f"{self.shard.words}: {chunks} done, {self.n_decoded} of them here"
        if self.run is None:
            return [f"{line}; the run waits for {self.waits_for}"]
        return [line, *self.run.lines(folder)]


def stored_result(folder: Path, spec: RunSpec) -> Summary | None:
    """Return the summary of exactly these settings, None if the run has none."""
    path = folder / "summary.json"
    if stored_fingerprint(path) != spec.fingerprint:
        return None
    try:
        return read_summary(path)
    except UserError:
        return None


def kept_result(folder: Path, spec: RunSpec) -> Summary | None:
    """Return the result of a run, None if it has none or is to be repeated.

    The workflow asks for a repetition by dating the spec after the result.
    """
    summary = stored_result(folder, spec)
    path = folder / "spec.json"
    is_to_be_repeated = (
        summary is not None
        and path.exists()
        and path.stat().st_mtime > (folder / "summary.json").stat().st_mtime
    )
    return None if is_to_be_repeated else summary


def result_dated_after(spec_path: Path, spec: RunSpec) -> Summary | None:
    """Return the result of a run, dated after its parts; None if it is still to be made.

    The workflow compares summary.json with the spec, the stamps of the shards and the report of the
    pack, and considers it outdated if one of them is newer. The caller holds the run's lock.

    Raises:
        UserError: it cannot be dated.
    """
    folder = spec_path.parent
    summary = kept_result(folder, spec)
    if summary is None:
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
    """Whether the report of a pack names a run."""
    try:
        record = read_json(report)
        return any(member["spec"] == str(spec_path) for member in record["members"])
    except (UserError, KeyError, TypeError):
        return False


def write_result(folder: Path, summary: Summary, scores: Scores) -> None:
    """Write results.json, samples.jsonl and, last, summary.json; other settings' are kept aside.

    Raises:
        UserError: a file cannot be written.
    """
    path = folder / "summary.json"
    if path.exists() and stored_fingerprint(path) != summary.fingerprint:
        keep_result_aside(folder)
    write_json_atomically(folder / "results.json", scores.results)
    samples = "".join(_json_line(sample) for sample in scores.samples)
    write_text_atomically(folder / "samples.jsonl", samples)
    write_summary(path, summary)


def _json_line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
