"""The result files of a run, and what identifies a result.

A result that is replaced is kept under another name: nothing is deleted. Imports no pydantic and no
torch, so that status stays fast.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fastdllm.common.files import cannot, json_object

# Version of the layout of summary.json; summary.py defines the layout itself.
SUMMARY_SCHEMA_VERSION = 2
RESULT_FILES = ("summary.json", "results.json", "samples.jsonl")
# The keys that identify one result of a run, for the tables made of results.
TABLE_KEYS = ("task", "config", "fingerprint", "timestamp")
# The first letters of a fingerprint are enough to distinguish two results of a run.
MARK_LETTERS = 8


def stored_fingerprint(summary: Path) -> str | None:
    """Return the fingerprint in a summary, None without a summary that can be read."""
    fingerprint = json_object(summary).get("fingerprint")
    return fingerprint if isinstance(fingerprint, str) else None


def table_mark(records: Iterable[Mapping[str, Any]]) -> str:
    """Return a comment that identifies the summaries of a table, in their order."""
    text = json.dumps([[record.get(key) for key in TABLE_KEYS] for record in records])
    return f"<!-- summaries: {hashlib.sha256(text.encode()).hexdigest()[:16]} -->"


def keep_aside(path: Path, mark: str) -> None:
    """Rename `path` to name.<mark>.suffix, if it exists.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        path.replace(path.with_name(f"{path.stem}.{mark}{path.suffix}"))
    except FileNotFoundError:
        return  # also where another clone with the same results/ was first
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
