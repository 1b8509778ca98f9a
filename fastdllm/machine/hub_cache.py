"""Which models of the Hugging Face hub are in the cache here.

Follows the folders of huggingface_hub 2.4 (refs, snapshots) and does not import it: a job has to
know in its first second, before torch, that a file is missing.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from fastdllm.common.paths import cache_home, expanded

_COMMIT = re.compile(r"[0-9a-f]{40}")


def hub_cache() -> Path:
    """Return the folder of cached models."""
    return _folder("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE") or _home() / "hub"


def is_commit(revision: str) -> bool:
    """Whether a revision is a commit, which never changes."""
    return _COMMIT.fullmatch(revision) is not None


def snapshot(model: str, revision: str | None) -> Path | None:
    """Return the folder of a model at a revision, complete or not; None if not cached."""
    storage = hub_cache() / f"models--{model.replace('/', '--')}"
    commit = revision or "main"
    if not is_commit(commit):
        try:
            commit = (storage / "refs" / commit).read_text(encoding="utf-8").strip()
        except OSError:
            return None
    folder = storage / "snapshots" / commit
    return folder if folder.is_dir() else None


def _home() -> Path:
    return _folder("HF_HOME") or cache_home() / "huggingface"


def _folder(*variables: str) -> Path | None:
    value = next((os.environ[name] for name in variables if os.environ.get(name)), None)
    return expanded(os.path.expandvars(value)) if value else None
