"""The result files of runs as plain records: where they are, which belong together, what is odd.

One result makes room for another under a name of its own: nothing is deleted. Imports no pydantic
and no torch, so that status stays fast.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastdllm.errors import UserError
from fastdllm.files import cannot, read_json

# Version of the layout of summary.json; summary.py owns the layout itself.
SUMMARY_SCHEMA_VERSION = 2
RESULT_FILES = ("summary.json", "results.json", "samples.jsonl")
# What tells one result of a run from another, for the tables made of them.
TABLE_KEYS = ("task", "config", "fingerprint", "timestamp")
# The first letters of a fingerprint are enough to tell two results of a run apart.
MARK_LETTERS = 8


def stored_fingerprint(summary: Path) -> str | None:
    """The fingerprint that a summary carries; None without a summary that can be read."""
    try:
        record: Any = read_json(summary)
    except UserError:
        return None
    fingerprint = record.get("fingerprint") if isinstance(record, dict) else None
    return fingerprint if isinstance(fingerprint, str) else None


def table_mark(records: Iterable[Mapping[str, Any]]) -> str:
    """A comment that says which summaries a table was made from, in which order."""
    text = json.dumps([[record.get(key) for key in TABLE_KEYS] for record in records])
    return f"<!-- summaries: {hashlib.sha256(text.encode()).hexdigest()[:16]} -->"


def disagreements(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences about summaries that must be right on the same items and are not.

    With reuse_k = 1 nothing is reused, so `layer_subset` cannot matter.
    """
    by_rest: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        decides = record.get("decides")
        if not isinstance(decides, Mapping) or record.get("items") is None:
            continue
        if decides.get("decoding.reuse_k") == 1:
            rest = {key: decides[key] for key in sorted(decides) if key != "decoding.layer_subset"}
            # Other hardware may round another way, and half precision another number of rows.
            made_on = [record.get("dtype"), record.get("hardware")]
            if record.get("dtype") != "float32":
                made_on.append(_batch_sizes(record))
            by_rest.setdefault(json.dumps([rest, made_on]), []).append(record)
    return [
        f"ALARM: {first['config']} and {other['config']} must give the same answers (reuse_k 1) "
        f"and do not ({first['task']})"
        for first, *others in by_rest.values()
        for other in others
        if other["items"] != first["items"]
    ]


def _batch_sizes(record: Mapping[str, Any]) -> list[Any]:
    how = record.get("eval_params") or {}
    return [how.get("batch_size"), how.get("smallest_batch_size")]


def keep_aside(path: Path, mark: str) -> None:
    """Rename `path` to name.<mark>.suffix, if it exists.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        if path.exists():
            path.replace(path.with_name(f"{path.stem}.{mark}{path.suffix}"))
    except OSError as error:
        raise cannot("rename", path, error) from None


def keep_result_aside(folder: Path) -> None:
    """Rename the result files of a run's folder after the fingerprint of its summary.

    Raises:
        UserError: the folder cannot be written.
    """
    mark = (stored_fingerprint(folder / "summary.json") or "damaged")[:MARK_LETTERS]
    for name in RESULT_FILES:
        keep_aside(folder / name, mark)
