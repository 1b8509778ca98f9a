"""The files of a checkpoint: its folder, and which weights are in it. Imports no torch.

A model is given as a folder or as a hub id (owner/name). Of weights, only the headers are read.
"""

from __future__ import annotations

import json
import operator
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fastdllm.common.errors import UserError, error_line, nearest_name
from fastdllm.common.files import read_json_object
from fastdllm.common.paths import NAME_PATTERN, expanded

FILES_NEEDED = ["*.json", "*.safetensors", "merges.txt", "*.jinja"]
WEIGHTS, WEIGHT_INDEX = "model.safetensors", "model.safetensors.index.json"
# Each of these is a whole tokenizer.
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("tokenizer.model",))

# As in safetensors; a damaged length would fill the memory.
LONGEST_HEADER = 100_000_000

_LIKE_WEIGHTS = frozenset(
    [".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx"]
)
# So begin the names of hidden copies, of adapters and of what a training keeps.
_NO_MODEL = (".", "adapter_", "optimizer", "scheduler", "rng_state", "training_")
_SHARD = re.compile(r"(?P<name>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.safetensors")
_HUB_ID = re.compile(f"{NAME_PATTERN}/{NAME_PATTERN}")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a safetensors file: bytes `start` to `stop` of it."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def local_folder(model: str | Path) -> Path | None:
    """Return the folder that `model` names; None if it is a hub id.

    Raises:
        UserError: it is neither.
    """
    folder = expanded(model)
    if folder.is_dir():
        return folder
    is_hub_id = _HUB_ID.fullmatch(str(model)) is not None
    if is_hub_id and not folder.exists() and not folder.parent.is_dir():
        return None
    near = nearest_name(str(folder), [str(p.parent) for p in folder.parent.glob("*/config.json")])
    hint = f"did you mean {near!r}?" if near else "give a folder or a hub id (owner/name)"
    raise UserError(f"model {str(model)!r}: no such folder; {hint}")


def find_checkpoint(path: str | Path, revision: str | None = None) -> Path:
    """Return the folder of a checkpoint; a hub id is downloaded or taken from the cache.

    Raises:
        UserError: there is no such folder, it has no revisions, or the hub does not deliver it.
    """
    folder = local_folder(path)
    if folder is not None:
        if revision is not None:
            raise UserError(f"{path}: a folder has no revisions; leave out {revision!r}")
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name = str(path)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=FILES_NEEDED))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        text = str(error)
        if isinstance(error, LocalEntryNotFoundError):  # its first line is the cause
            text = text.strip().partition("\n")[0].removeprefix("Got: ")
        line = " ".join(text.split())[:200]
        raise UserError(
            f"model {name!r}: no such folder here, and the hub did not deliver it ({line}); "
            "fetch it on a machine with network access first: hf download " + name
        ) from error


def commit_of(model: str | Path, checkpoint: Path) -> str | None:
    """Return the commit of a checkpoint that `find_checkpoint` found; None for a folder."""
    return None if local_folder(model) is not None else checkpoint.name


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint, in a fixed order.

    Raises:
        UserError: there are none, or the index names one that is missing.
    """
    files = _named_weights(folder)
    if not files:
        raise UserError(
            f"{folder}: no safetensors weights here; only safetensors checkpoints are loaded"
        )
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: not found, but the checkpoint needs it; fetch it again")
    return files


def lacking(folder: Path) -> str | None:
    """Name what a checkpoint lacks, such as the end of a weight file; None if it is complete."""
    if not (folder / "config.json").is_file():
        return "config.json is missing"
    if not any(all((folder / name).is_file() for name in names) for names in TOKENIZERS):
        return "tokenizer.json is missing"
    try:
        files = _named_weights(folder)
    except UserError as error:
        return str(error).removeprefix(f"{folder}: ").removeprefix(f"{folder}/")
    if not files:
        return "there are no safetensors weights"
    for file in files:
        if not is_whole_safetensors(file):
            return f"{file.name} is {'truncated' if file.is_file() else 'missing'}"
    return None


def _named_weights(folder: Path) -> list[Path]:
    """Return the weight files, in the order of `transformers`: model.safetensors, else its index.

    Without either, the shards of one set (model-00001-of-00002), else the only file. Adapters,
    states of optimizers, backups and the like beside them are no part of the model.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    placed = weight_map(folder)
    if placed is None:
        return _unnamed_weights(folder)
    return [folder / name for name in sorted(set(placed.values()))]


def weight_map(folder: Path) -> dict[str, str] | None:
    """Return the file of each tensor by the index of a checkpoint, None if it goes without one.

    Raises:
        UserError: the index is broken, or names what is no weight file of this folder.
    """
    index = folder / WEIGHT_INDEX
    if (folder / WEIGHTS).is_file() or not index.is_file():
        return None
    placed = read_json_object(index).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise UserError(f"{index}: has no weight_map (the file of each tensor); fetch it again")
    for tensor, name in placed.items():
        # A file elsewhere would not count in the fingerprint of a run.
        is_here = isinstance(name, str) and Path(name).name == name
        if not is_here or not name.endswith(".safetensors"):
            raise UserError(
                f"{index}: {tensor}: {name!r} is no safetensors file of this folder; fetch it again"
            )
    return placed


def _unnamed_weights(folder: Path) -> list[Path]:
    files = [p for p in sorted(folder.glob("*.safetensors")) if not p.name.startswith(_NO_MODEL)]
    matches = [match for path in files if (match := _SHARD.fullmatch(path.name))]
    sets = {(match["name"], int(match["count"])) for match in matches}
    if len(sets) == 1:
        name, count = sets.pop()
        return [
            folder / f"{name}-{index:05}-of-{count:05}.safetensors" for index in range(1, count + 1)
        ]
    if len(files) > 1:
        names = ", ".join(path.name for path in files[:4])
        raise UserError(
            f"{folder}: which of {names} is the model? rename it to {WEIGHTS}, or move the others "
            "away"
        )
    return files


def other_weights(folder: Path) -> list[str]:
    """Return the names of files in a folder that look like weights and are no part of the model."""
    used = _named_weights(folder)
    likely = [path for path in sorted(folder.iterdir()) if path.suffix in _LIKE_WEIGHTS]
    return [path.name for path in likely if path not in used and path.is_file()]


def is_whole_safetensors(file: Path) -> bool:
    """Whether a safetensors file has a right header, and all the bytes that it announces."""
    try:
        with file.open("rb") as stream:
            read_header(stream)
    except (OSError, ValueError):
        return False
    return True


def read_header(stream: IO[bytes]) -> dict[str, StoredTensor]:
    """Read what the header of a safetensors file says of each tensor.

    Raises:
        ValueError: it is broken, or does not describe the bytes behind it, one tensor after the
            other up to the end.
    """
    size = os.fstat(stream.fileno()).st_size
    length = int.from_bytes(stream.read(8), "little")
    if not 0 < length <= min(size - 8, LONGEST_HEADER):
        raise ValueError("the header is not whole")
    try:
        header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        tensors = {
            name: StoredTensor(
                dtype=str(values["dtype"]),
                shape=tuple(operator.index(count) for count in values["shape"]),
                start=8 + length + operator.index(values["data_offsets"][0]),
                stop=8 + length + operator.index(values["data_offsets"][1]),
            )
            for name, values in header.items()
        }
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(f"the header cannot be read: {error_line(error)}") from None
    at = 8 + length
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if tensor.start != at or tensor.stop < at:
            raise ValueError(f"{name} is not where the tensor before it ends")
        at = tensor.stop
    if at != size:
        raise ValueError(f"{size} bytes instead of {at}")
    return tensors
