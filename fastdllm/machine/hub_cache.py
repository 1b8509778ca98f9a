"""What of the Hugging Face hub lies in the caches here, read from the folders alone.

Follows huggingface_hub 2.4 (refs, snapshots) and datasets 5.2 (owner___name/config/version/digest),
and imports neither: a job has to know in its first second, before torch, that a file is not there.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_COMMIT = re.compile(r"[0-9a-f]{40}")


def hub_cache() -> Path:
    """Where models of the hub are kept."""
    return _folder("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE") or _home() / "hub"


def data_cache() -> Path:
    """Where data sets are kept that `datasets` made ready."""
    return _folder("HF_DATASETS_CACHE") or _home() / "datasets"


def is_commit(revision: str) -> bool:
    """Whether a revision is a commit, which never moves."""
    return _COMMIT.fullmatch(revision) is not None


def snapshot(model: str, revision: str | None) -> Path | None:
    """The folder of a model at a revision, whole or not; None where there is none."""
    storage = hub_cache() / f"models--{model.replace('/', '--')}"
    commit = revision or "main"
    if not is_commit(commit):
        try:
            commit = (storage / "refs" / commit).read_text(encoding="utf-8").strip()
        except OSError:
            return None
    folder = storage / "snapshots" / commit
    return folder if folder.is_dir() else None


def has_data_set(name: str, config: str | None = None) -> bool:
    """Whether a data set of the hub (in the named configuration) was made ready here."""
    owner, _, last = name.rpartition("/")
    # The spelling of `datasets`: MyData -> my_data.
    last = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", last)
    last = re.sub(r"([a-z\d])([A-Z])", r"\1_\2", last).lower()
    folder = data_cache() / (f"{owner}___{last}" if owner else last)
    return any(folder.glob(f"{config or '*'}/*/*/dataset_info.json"))


def _home() -> Path:
    home = _folder("HF_HOME")
    return home or (_folder("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "huggingface"


def _folder(*variables: str) -> Path | None:
    value = next((os.environ[name] for name in variables if os.environ.get(name)), None)
    return Path(os.path.expandvars(value)).expanduser() if value else None
