"""Digests of what decides the answers but lives in files: model weights, task files, their data.

A digest says what a file means, not where or when it was written: comments and layout of YAML and
Python do not count. Big files are hashed once per (size, mtime); results/.digests.json remembers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastdllm.errors import UserError, nearest_name
from fastdllm.evaluation.environment import LOCAL_BUILDERS
from fastdllm.files import cannot, read_json, write_json_atomically
from fastdllm.policy import policy_code_digest
from fastdllm.workflow.names import NAME_PATTERN
from fastdllm.workflow.yaml_files import read_yaml_mapping

DIGEST_CACHE = Path("results/.digests.json")

# What decides a model's answers; its card, its curves and the like do not.
MODEL_FILES = (
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


@dataclass(slots=True)
class FileDigests:
    """sha256 of files, remembered by size and modification time."""

    path: Path = DIGEST_CACHE
    known: dict[str, list[Any]] = field(default_factory=dict)
    is_changed: bool = False

    @classmethod
    def load(cls, path: Path = DIGEST_CACHE) -> FileDigests:
        """Read the memory; one that is missing or damaged is only an empty one."""
        try:
            known = read_json(path)
        except UserError:
            known = {}
        return cls(path=path, known=known if isinstance(known, dict) else {})

    def of(self, file: Path) -> str:
        """The sha256 of a file's bytes."""
        try:
            stat = file.stat()
            stamp, entry = [stat.st_size, stat.st_mtime_ns], self.known.get(str(file))
            if isinstance(entry, list) and len(entry) == 3 and entry[:2] == stamp:
                return str(entry[2])
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise cannot("read", file, error) from None
        self.known[str(file)] = [*stamp, digest]
        self.is_changed = True
        return digest

    def save(self) -> None:
        """Keep what was learnt; nothing is written when nothing was."""
        if self.is_changed:
            write_json_atomically(self.path, self.known)
            self.is_changed = False


def digest_of(value: Any) -> str:
    """sha256 of a plain value in its one JSON form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def model_folder(path: str) -> Path | None:
    """The folder that a model path names, or None when it is a Hugging Face id.

    Raises:
        UserError: it is neither.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    is_hub_id = len(folder.parts) == 2 and all(_is_name(part) for part in folder.parts)
    if is_hub_id and not folder.parent.is_dir():
        return None
    there = [str(p.parent) for p in folder.parent.glob("*/config.json")]
    near = nearest_name(str(folder), there)
    hint = f"did you mean {near!r}?" if near else "give a folder or a Hugging Face id (owner/name)"
    raise UserError(f"model {path!r}: no such folder; {hint}")


def _is_name(part: str) -> bool:
    return re.fullmatch(NAME_PATTERN, part) is not None


def model_digest(folder: Path, digests: FileDigests) -> str:
    """Digest of a local model: config, weights, tokenizer.

    Raises:
        UserError: the folder has no config.json or no weights.
    """
    files = sorted({file for pattern in MODEL_FILES for file in folder.glob(pattern)})
    names = [file.name for file in files]
    for needed, is_there in (
        ("config.json", "config.json" in names),
        ("*.safetensors", any(name.endswith(".safetensors") for name in names)),
    ):
        if not is_there:
            raise UserError(
                f"{folder}: no {needed} in this model folder; give another folder in "
                "workflow_config.yaml (model.path), or make the embedded model: snakemake train"
            )
    return digest_of([[file.name, digests.of(file)] for file in files])


def num_layers(folder: Path) -> int:
    """How many layers a local model has, from its config.json."""
    path = folder / "config.json"
    config = read_json(path)
    layers = config.get("num_hidden_layers") if isinstance(config, dict) else None
    if not isinstance(layers, int) or layers < 1:
        raise UserError(f"{path}: num_hidden_layers: {layers!r} is not a number of layers")
    return layers


def task_digest(file: Path, digests: FileDigests) -> str:
    """Digest of a task: its YAML without comments, included files, data and Python helpers."""
    parts = sorted(_task_parts(file, digests, seen=set()))
    return digest_of(parts)


def _task_parts(file: Path, digests: FileDigests, *, seen: set[Path]) -> Iterator[tuple[str, str]]:
    if file in seen:
        return
    seen.add(file)
    values = read_yaml_mapping(file, what="a task for lm-eval")
    yield file.name, digest_of(values)
    included = values.get("include")
    for name in [included] if isinstance(included, str) else included or []:
        yield from _task_parts(file.parent / str(name), digests, seen=seen)
    for name in _member_tasks(values):
        member = file.parent / f"{name}.yaml"
        if member.is_file():
            yield from _task_parts(member, digests, seen=seen)
    for function in _functions(values):
        module = file.parent / f"{function.split('.')[0]}.py"
        yield module.name, policy_code_digest(module)
    for data in _data_files(values, file):
        yield data.name, digests.of(data)


def _member_tasks(values: Mapping[str, Any]) -> Iterator[str]:
    members = values.get("task")
    for member in members if isinstance(members, list) else []:
        yield str(member.get("task")) if isinstance(member, dict) else str(member)


def _functions(value: Any) -> Iterator[str]:
    """The `!function module.name` references anywhere in a task."""
    if isinstance(value, Mapping):
        if isinstance(value.get("!function"), str):
            yield value["!function"]
        for inner in value.values():
            yield from _functions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _functions(inner)


def _data_files(values: Mapping[str, Any], file: Path) -> Iterator[Path]:
    """The local data files of a task; what a data set on the hub holds is its own business."""
    options = values.get("dataset_kwargs")
    if values.get("dataset_path") not in LOCAL_BUILDERS or not isinstance(options, Mapping):
        return
    for name in sorted(set(_texts(options.get("data_files")))):
        if "://" in name:
            continue
        # `datasets` resolves such a path from the working directory, the root of the project.
        matches = [Path(name)] if Path(name).is_absolute() else sorted(Path().glob(name))
        if not matches or not all(match.is_file() for match in matches):
            raise UserError(f"{file}: dataset_kwargs.data_files: {name}: no such file")
        yield from matches


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
