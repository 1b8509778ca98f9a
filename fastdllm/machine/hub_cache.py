"""What of the Hugging Face hub lies in the caches here, read from the folders alone.

Follows huggingface_hub 2.4 (refs, snapshots) and datasets 5.2 (owner___name/config/version/digest),
and imports neither: a job has to know in its first second, before torch, that a file is not there.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_COMMIT = re.compile(r"[0-9a-f]{40}")
# Either is a whole tokenizer.
_TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("tokenizer.model",))


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


def lacking(folder: Path) -> str | None:
    """What a model's folder lacks: configuration, tokenizer, or (the end of) a weight file."""
    if not (folder / "config.json").is_file():
        return "config.json is missing"
    if not any(all((folder / name).is_file() for name in names) for names in _TOKENIZERS):
        return "tokenizer.json is missing"
    return _weights_lacking(folder)


def _weights_lacking(folder: Path) -> str | None:
    try:
        files = list(_weight_files(folder))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return f"model.safetensors.index.json cannot be read ({type(error).__name__})"
    if not files:
        return "there are no safetensors weights"
    for file in files:
        if not is_whole_safetensors(file):
            return f"{file.name} is {'cut off' if file.is_file() else 'missing'}"
    return None


def is_whole_safetensors(file: Path) -> bool:
    """Whether a safetensors file has all the bytes that its head announces; reads the head only."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            size = file.stat().st_size
            if not 0 < length <= size - 8:
                return False
            head: dict[str, Any] = json.loads(stream.read(length))
        ends = [value["data_offsets"][1] for key, value in head.items() if key != "__metadata__"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError):
        return False
    return bool(8 + length + max(ends, default=0) == size)


def has_data_set(name: str, config: str | None = None) -> bool:
    """Whether a data set of the hub (in the named configuration) was made ready here."""
    owner, _, last = name.rpartition("/")
    # The spelling of `datasets`: MyData -> my_data.
    last = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", last)
    last = re.sub(r"([a-z\d])([A-Z])", r"\1_\2", last).lower()
    folder = data_cache() / (f"{owner}___{last}" if owner else last)
    return any(folder.glob(f"{config or '*'}/*/*/dataset_info.json"))


def _weight_files(folder: Path) -> Iterator[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        placed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        yield from (folder / name for name in sorted(set(placed.values())))
    else:
        yield from sorted(folder.glob("*.safetensors"))


def _home() -> Path:
    home = _folder("HF_HOME")
    return home or (_folder("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "huggingface"


def _folder(*variables: str) -> Path | None:
    value = next((os.environ[name] for name in variables if os.environ.get(name)), None)
    return Path(os.path.expandvars(value)).expanduser() if value else None
