"""The result files of a run, and what identifies a result.

A result that is replaced is kept under another name: nothing is deleted. Imports no pydantic and no
torch, so that status stays fast.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fastdllm.common.files import cannot, json_object
from fastdllm.common.paths import ARTIFACTS, NAME_PATTERN, RESULTS, split_task_folder

# Version of the layout of summary.json; summary.py defines the layout itself.
SUMMARY_SCHEMA_VERSION = 2
RESULT_FILES = ("summary.json", "results.json", "samples.jsonl")
# What a run is called, in the order of its folders.
NAMES = ("experiment", "task", "config")
# The key of a summary that is the digest of all others; older ones have none.
DIGEST = "content_digest"
_IS_NAME = re.compile(NAME_PATTERN).fullmatch
# The keys that identify one result of a run, for the tables made of results.
TABLE_KEYS = ("task", "config", "fingerprint", "timestamp")
# The first letters of a fingerprint are enough to distinguish two results of a run.
MARK_LETTERS = 8


def stored_fingerprint(summary: Path) -> str | None:
    """Return the fingerprint in a summary, None without a summary that can be read."""
    fingerprint = json_object(summary).get("fingerprint")
    return fingerprint if isinstance(fingerprint, str) else None


def named_by_place(record: dict[str, Any], path: Path | str) -> dict[str, Any]:
    """Return a summary under the names of its folder in results/ or artifacts/.

    So an experiment or a config that was renamed keeps its results. One that is published under the
    names in the file as well was copied by hand: it is a copy of that run (`same_as`).
    """
    top, *folders = Path(path).parts[-5:-1] or ("",)
    if top not in (RESULTS.name, ARTIFACTS.name) or len(folders) != len(NAMES):
        return record
    folders[1] = split_task_folder(folders[1])[0]
    if [record.get(name) for name in NAMES] == folders:
        return record
    own = {name: str(record.get(name)) for name in NAMES}
    named = {**record, **dict(zip(NAMES, folders, strict=True))}
    is_moved = any(own[name] != named[name] for name in NAMES)
    if not is_moved or "same_as" in record or not all(map(_IS_NAME, own.values())):
        return named
    other = json_object(ARTIFACTS.joinpath(*own.values(), RESULT_FILES[0]))
    if all(other.get(key) == record.get(key) for key in ("fingerprint", "timestamp")):
        named["same_as"] = {**own, "fingerprint": record.get("fingerprint")}
    return named


def table_mark(records: Iterable[Mapping[str, Any]]) -> str:
    """Return a comment that identifies the summaries of a table, in their order."""
    text = json.dumps([[record.get(key) for key in TABLE_KEYS] for record in records])
    return f"<!-- summaries: {hashlib.sha256(text.encode()).hexdigest()[:16]} -->"


def content_digest(values: Mapping[str, Any]) -> str:
    """Digest what a summary says, in the order of its keys; layout does not count."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def take_digest(values: dict[str, Any]) -> str | None:
    """Remove a summary's digest of its content; return why the rest cannot be used, or None."""
    digest = values.pop(DIGEST, None)
    if digest is None or digest == content_digest(values):
        return None
    return (
        "edited or merged by hand, so its figures may be of several results; restore it (`git "
        "checkout`, with --ours or --theirs in a merge), or remove it to make the run again"
    )


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
