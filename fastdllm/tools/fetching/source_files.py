"""Write the files of a task from the data set of the hub that its own file names.

The rows of a split become JSON lines, in their order and with all columns; a raw file stays as it
is. Import this module only within `lm_eval_environment`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from fastdllm.common.errors import UserError, unknown_name
from fastdllm.common.files import cannot, write_bytes_atomically
from fastdllm.tasks.task_metadata import HubFile
from fastdllm.tools.fetching.hub_errors import explained, gated, refuse_offline, short


def are_as_fetched(files: Mapping[Path, HubFile], record: Mapping[str, Any]) -> bool:
    """Whether all files are here with the content that they were fetched with, from there."""
    digests = _recorded(record)
    return record.get("sources") == _sources(files) and all(
        file.is_file() and _digest(_content(file)) == digests.get(file) for file in files
    )


def fetch_files(
    files: Mapping[Path, HubFile], record: Mapping[str, Any], note: Callable[[str], None]
) -> dict[str, Any]:
    """Write the files of a task that are not here yet; return what is recorded of all of them.

    Args:
        record: of the last fetch; a file that differs from its digest is somebody's own.
        note: called with a line for each file that is replaced.

    Raises:
        UserError: a data set cannot be loaded, or a file of the user would be overwritten.
    """
    refuse_offline()
    commits: dict[tuple[str, str | None], str] = {}
    contents: dict[Path, bytes] = {}
    loaded = cache(_splits)
    for path, file in files.items():
        data_set = (file.repo, file.revision)
        commit = commits.get(data_set) or commits.setdefault(data_set, _commit(*data_set))
        if file.raw is not None:
            contents[path] = _raw(file.repo, file.raw, commit)
        else:
            splits = loaded(file.repo, file.config, commit)
            contents[path] = b"".join(_lines(file, splits, split) for split in file.splits)
    digests = _recorded(record)
    there = {path: _content(path) for path in contents if path.is_file()}
    for path, old in there.items():
        if old != contents[path] and _digest(old) != digests.get(path):
            raise UserError(
                f"{path}: is here already and differs from {files[path].repo} of the hub; remove "
                "it, or name its folder in workflow_config.yaml (data: ...) to use it"
            )
    for path, content in contents.items():
        if there.get(path) != content:
            if path in there:
                note(f"{path}: replaced, as {files[path].repo} has changed")
            write_bytes_atomically(path, content)
    return {
        "files": [
            {"path": str(path), "bytes": len(content), "sha256": _digest(content)}
            for path, content in contents.items()
        ],
        "sources": _sources(files),
        "data_sets": [
            {"repo": repo, "revision": revision or "main", "commit": commit}
            for (repo, revision), commit in commits.items()
        ],
    }


def _commit(repo: str, revision: str | None) -> str:
    from huggingface_hub import HfApi

    with explained("data set", repo, revision):
        return str(HfApi().dataset_info(repo, revision=revision).sha)


def _raw(repo: str, name: str, commit: str) -> bytes:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    with explained("data set", repo, commit):
        try:
            path = hf_hub_download(repo, name, repo_type="dataset", revision=commit)
        except RemoteEntryNotFoundError:
            raise UserError(f"data set {repo!r}: the hub has no file {name!r} of it") from None
    return _content(Path(path))


def _splits(repo: str, config: str | None, commit: str) -> Mapping[str, Any]:
    """Return all splits of one configuration of a data set."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    with explained("data set", repo, commit):
        try:
            return load_dataset(repo, config, revision=commit)
        except (DatasetsError, ValueError) as error:  # such as one of a configuration it has not
            if isinstance(error, DatasetNotFoundError) and "gated" in str(error):
                raise gated("data set", repo) from None
            raise UserError(f"data set {repo!r}: cannot be loaded: {short(error)}") from None


def _lines(file: HubFile, splits: Mapping[str, Any], split: str) -> bytes:
    where = f"data set {file.repo!r}" + (f", {file.config}" if file.config else "")
    if split not in splits:
        raise unknown_name("split", split, splits, where)
    try:
        lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in splits[split]]
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{where}, {split}: a value cannot be written as JSON ({short(error)})"
        ) from None
    return "".join(f"{line}\n" for line in lines).encode()


def _sources(files: Mapping[Path, HubFile]) -> dict[str, Any]:
    """Return where files come from as JSON has it."""
    return {
        str(path): {**asdict(file), "splits": list(file.splits)} for path, file in files.items()
    }


def _recorded(record: Mapping[str, Any]) -> dict[Path, str]:
    return {Path(file["path"]): file["sha256"] for file in record.get("files", [])}


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise cannot("read", path, error) from None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
