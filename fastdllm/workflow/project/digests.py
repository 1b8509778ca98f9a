"""Digests of files that decide the answers: model weights, task files, their data.

A digest says what a file means, not where or when it was written: comments and layout of YAML and
Python do not count. Files are hashed once per (size, dates); results/.digests.json is the cache.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastdllm import version
from fastdllm.common.errors import UserError
from fastdllm.common.files import cannot, json_object, write_json_atomically
from fastdllm.common.paths import RESULTS, expanded
from fastdllm.decoding.user_code import policy_code_digest
from fastdllm.model.checkpoint import other_weights
from fastdllm.runs.spec import RunSpec
from fastdllm.tasks.task_files import TaskFiles, find_task_files
from fastdllm.tasks.task_metadata import OPTIONS
from fastdllm.tasks.task_source import SOURCE, TaskSource, metadata_of
from fastdllm.version import DECODER_VERSION

VERSION_FILE = Path(version.__file__)
DIGEST_CACHE = RESULTS / ".digests.json"

# What decides a model's answers, unlike its card and its curves: all that its tokenizer may be read
# from, of which transformers takes some for certain versions or classes only.
MODEL_FILES = (
    "config.json",
    "config.*.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "*tokenizer.*.json",
    "*.model",
    "*.tiktoken",
    "tekken.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
)


@dataclass(slots=True)
class FileDigests:
    """sha256 of files, remembered by size, modification time and change time."""

    path: Path = DIGEST_CACHE
    cached: dict[str, list[Any]] = field(default_factory=dict)
    is_changed: bool = False

    @classmethod
    def load(cls, path: Path = DIGEST_CACHE) -> FileDigests:
        """Read the cache; a missing or damaged one is empty."""
        return cls(path=path, cached=json_object(path))

    def of(self, file: Path) -> str:
        """The sha256 of a file's bytes."""
        try:
            stat = file.stat()
            # The date of a content may be set to what it was; that of an entry may not.
            stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
            # Clones may share results/, and with it this cache.
            key = str(file.absolute())
            entry = self.cached.get(key)
            if isinstance(entry, list) and len(entry) == 4 and entry[:3] == stamp:
                return str(entry[3])
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise cannot("read", file, error) from None
        self.cached[key] = [*stamp, digest]
        self.is_changed = True
        return digest

    def save(self) -> None:
        """Write the cache where possible, and only if it changed."""
        if self.is_changed:
            # Only a speed-up: `fastdllm status` must work on a full disk, and in another user's
            # read-only folder, where the files are then hashed each time.
            with suppress(UserError):
                write_json_atomically(self.path, self.cached)
            self.is_changed = False


def digest_of(value: Any) -> str:
    """sha256 of a plain value in canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def model_digest(folder: Path, digests: FileDigests) -> str:
    """Digest of a local model: config, weights, tokenizer.

    Raises:
        UserError: the folder has no config.json or no weights.
    """
    others = set(other_weights(folder))
    found = {file for pattern in MODEL_FILES for file in folder.glob(pattern)}
    named = ((str(file.relative_to(folder)), file) for file in sorted(found))
    files = {name: file for name, file in named if name not in others}
    for needed, is_there in (
        ("config.json", "config.json" in files),
        ("*.safetensors", any(name.endswith(".safetensors") for name in files)),
    ):
        if not is_there:
            raise UserError(
                f"{folder}: no {needed} in this model folder; give another folder in "
                "workflow_config.yaml (model.path), or make the embedded model: snakemake train"
            )
    return digest_of([[name, digests.of(file)] for name, file in files.items()])


def task_digest(task: TaskSource, digests: FileDigests) -> str:
    """Digest of a task: its YAML without comments, included files, members, helpers and data.

    Raises:
        UserError: a file that the task names is missing or broken.
    """
    return task_digests(find_task_files(task), digests).whole


@dataclass(frozen=True, slots=True)
class TaskDigests:
    """Digests of the files behind a task; definition: of those that are not its data."""

    whole: str
    definition: str


def task_digests(files: TaskFiles, digests: FileDigests) -> TaskDigests:
    """Digest the files behind a task (see `task_digest`)."""
    parts = [(path.name, digest_of(what_counts(values))) for path, values in files.layers]
    parts += [(path.name, policy_code_digest(path)) for path in files.helpers]
    data = [(name, digests.of(path)) for name, path in files.data]
    # By name only: files of one name stay in the order in which the task names them, so that
    # exchanging their contents counts.
    whole, definition = (sorted(every, key=lambda part: part[0]) for every in (parts + data, parts))
    return TaskDigests(digest_of(whole), digest_of(definition))


def what_counts(values: Mapping[str, Any]) -> Any:
    """Return the keys of a task without those of `metadata` that count elsewhere.

    Options are keys of the fingerprint themselves, and the data counts by its content.
    """
    metadata = metadata_of(values)
    if metadata.keys() & {OPTIONS, SOURCE}:
        counting = {key: metadata[key] for key in metadata.keys() - {OPTIONS, SOURCE}}
        values = {**values, "metadata": counting}
    return _with_text_keys(values)


def _with_text_keys(value: Any) -> Any:
    """Return the value with keys as text, since keys of mixed types in YAML cannot be sorted."""
    if isinstance(value, Mapping):
        return {str(key): _with_text_keys(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_text_keys(inner) for inner in value]
    return value


def _version_on_disk() -> int | None:
    """Return the decoder version of the files that run, of which a process imports some late."""
    found = re.search(r"^DECODER_VERSION = (\d+)$", VERSION_FILE.read_text("utf-8"), flags=re.M)
    return int(found[1]) if found is not None else None


def check_sources(spec: RunSpec, digests: FileDigests) -> None:
    """Compare policy, task and local model with the digests of the run's spec.

    Any of them may have been edited while the run waited in a queue.

    Args:
        digests: kept from one check of a run to the next, so that only a file whose size or time
            differs is read again; weights may be many gigabytes.

    Raises:
        UserError: one of them has changed since, or the spec itself was edited.
    """
    if digest_of(spec.decides) != spec.fingerprint:
        raise UserError(
            f"spec.json of {spec.experiment}/{spec.task}/{spec.config}: its settings are not those "
            "of its fingerprint; `snakemake -n` writes it again"
        )
    planned = spec.decides.get("decoder_version")
    other = next((v for v in (DECODER_VERSION, _version_on_disk()) if v != planned), planned)
    if other != planned:
        raise UserError(
            f"{spec.experiment}/{spec.task}/{spec.config}: planned with decoder version {planned}, "
            f"and this code has {other}; type the same snakemake command again"
        )
    policy, task = Path(spec.run.policy_file), spec.run.task
    if not policy.exists():
        raise UserError(
            f"{policy}: not found from here; type the command in the project's folder, or give "
            "--directory before it"
        )
    current = {
        "policy_digest": (policy, policy_code_digest(policy)),
        "task_digest": (task.file, task_digest(task, digests)),
    }
    if spec.decides.get("model") == "local":
        folder = expanded(spec.run.model_path)
        current["model_digest"] = (folder, model_digest(folder, digests))
    for key, (path, digest) in current.items():
        if spec.decides.get(key) != digest:
            raise UserError(
                f"{path}: changed since the run was planned; type the same snakemake command again"
            )
