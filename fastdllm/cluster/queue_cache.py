"""The last answer of squeue, in a file of the user's cache folder: several looks, one question."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastdllm.common.errors import UserError
from fastdllm.common.files import write_text_atomically


def cached(max_age_s: float) -> list[dict[str, Any]] | None:
    """The fields of the jobs, from an answer up to so many seconds old; None without one."""
    if max_age_s <= 0:
        return None
    try:
        record = json.loads(_path().read_text(encoding="utf-8"))
        # A date in the future comes from a clock that was set back.
        if not 0 <= time.time() - record["time"] <= max_age_s:
            return None
        return [dict(fields) for fields in record["jobs"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(jobs: Sequence[dict[str, Any]]) -> None:
    """Leave an answer for the next look."""
    record = {"time": time.time(), "jobs": jobs}
    try:
        write_text_atomically(_path(), json.dumps(record))
    except UserError:
        return  # no cache, no harm: the next call asks squeue again


def _path() -> Path:
    """One file for each cluster and user."""
    base = os.environ.get("XDG_CACHE_HOME")
    folder = Path(base) if base else Path.home() / ".cache"
    key = f"{os.environ.get('SLURM_CONF', '')} {os.getuid()}"
    return folder / "fastdllm" / f"squeue-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
