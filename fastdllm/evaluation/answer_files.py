"""A file of answers: what can be read of it, and how one makes room for another.

A file is never deleted: what is not used any more is kept aside in the same folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastdllm.evaluation.answer_records import Header


@dataclass(frozen=True, slots=True)
class Content:
    """What can be read of a file: its records, one a line from the first on, and their bytes.

    damaged: behind them stands more than a torn last line.
    """

    records: tuple[Any, ...] = ()
    size: int = 0
    damaged: bool = False

    @property
    def header(self) -> Mapping[str, Any] | None:
        first = self.records[0] if self.records else None
        return first if isinstance(first, dict) and first.get("record") == "header" else None

    @property
    def ended(self) -> bool:
        last = self.records[-1] if self.records else None
        return isinstance(last, dict) and last.get("record") == "end"

    def belongs_to(self, header: Header) -> bool:
        return self.header is not None and header.agrees_with(self.header)


def read_content(path: Path) -> Content:
    """Read records up to the first line that is not JSON, or not whole."""
    if not path.exists():
        return Content()
    records, size, rest = [], 0, b""
    with path.open("rb") as stream:
        for line in stream:
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if record is None or not line.endswith(b"\n"):
                rest = line + stream.read()
                break
            records.append(record)
            size += len(line)
    # A line break shows that a line was once whole. Zeros are what a power cut leaves of a block.
    damaged = b"\n" in rest and bool(rest.strip(b"\0 \r\n"))
    return Content(records=tuple(records), size=size, damaged=damaged)


def move_aside(path: Path, content: Content) -> Path:
    """Rename a file of other answers after their fingerprint, or one without a header."""
    name = str(content.header.get("fingerprint", "unknown"))[:8] if content.header else "damaged"
    target = _aside(path, name)
    path.replace(target)
    return target


def copy_aside(path: Path) -> Path:
    """Keep a damaged file as it is, before its own is cut to what can be read."""
    target = _aside(path, "damaged")
    try:
        with path.open("rb") as old, target.open("xb") as new:
            shutil.copyfileobj(old, new)
            new.flush()
            os.fsync(new.fileno())
    except OSError:
        target.unlink(missing_ok=True)
        raise
    return target


def _aside(path: Path, name: str) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    return path.with_name(f"{path.stem}.{name}.{stamp}.jsonl")


def kept_aside(path: Path, header: Header) -> Path | None:
    """The newest file that made room for another at `path`, under exactly this header."""
    marks = rf"\.{re.escape(header.fingerprint[:8])}\.\d{{8}}T\d+Z\.jsonl"
    own = re.compile(re.escape(path.stem) + marks)
    found = sorted((p for p in path.parent.iterdir() if own.fullmatch(p.name)), reverse=True)
    return next((p for p in found if read_content(p).belongs_to(header)), None)
