"""Download a model of the hub into the cache, and compare each file with the hub's own digests.

huggingface_hub downloads and resumes; this adds what it leaves out: a file that is damaged in the
cache (a full disk, a purge) is found and fetched again. Knows no data sets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdllm.common.errors import UserError
from fastdllm.model.checkpoint import lacking
from fastdllm.tools.fetching.hub_errors import explained, refuse_offline

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

    from fastdllm.workflow.project.digests import FileDigests


@dataclass(frozen=True, slots=True)
class FetchedModel:
    """A model in the cache whose files are those of the hub.

    files: bytes and sha256 by name.
    """

    id: str
    revision: str
    commit: str
    folder: Path
    files: dict[str, dict[str, Any]]


def fetch_model(
    model: str, revision: str | None, *, digests: FileDigests, note: Callable[[str], None]
) -> FetchedModel:
    """Download missing files of a model, and compare every file with the hub's digests.

    Args:
        digests: remembers the sha256 of files, so that a second fetch reads none again.
        note: called with a line before each step that takes long.

    Raises:
        UserError: no such model or revision, no network, a full disk, or a file that still
            differs after it was fetched again.
    """
    from fastdllm.model.checkpoint import FILES_NEEDED

    refuse_offline()
    folder = _download(model, revision, FILES_NEEDED)
    lack = lacking(folder)
    if lack is not None and not lack.endswith("is truncated"):
        raise UserError(f"model {model!r}: {lack} on the hub; fastdllm needs it")
    listed = _listed(model, folder.name, FILES_NEEDED)
    note(f"model {model}: comparing {len(listed)} files with the hub's digests")
    damaged = [file for file in listed if not _is_the_hubs(folder / file.path, file, digests)]
    for file in damaged:
        note(f"model {model}: {file.path} is damaged in the cache; fetching it again")
        blob = (folder / file.path).resolve()
        (folder / file.path).unlink(missing_ok=True)
        blob.unlink(missing_ok=True)
    if damaged:
        folder = _download(model, folder.name, FILES_NEEDED)
    for file in damaged:
        if not _is_the_hubs(folder / file.path, file, digests):
            raise UserError(
                f"model {model!r}: {file.path} differs from the hub's digest after two downloads; "
                "is a proxy in between, or the disk failing?"
            )
    digests.save()
    files = {
        file.path: {"bytes": file.size, "sha256": digests.of(folder / file.path)} for file in listed
    }
    return FetchedModel(
        id=model,
        revision=revision or "main",
        commit=folder.name,
        folder=folder,
        files=files,
    )


def _download(model: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    with explained("model", model, revision):
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))


def _listed(model: str, commit: str, patterns: list[str]) -> list[RepoFile]:
    """Return the files needed, with the digests that the hub gives."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils import filter_repo_objects

    with explained("model", model, commit):
        tree = list(HfApi().list_repo_tree(model, recursive=True, revision=commit))
    files = [file for file in tree if isinstance(file, RepoFile)]
    return list(filter_repo_objects(files, allow_patterns=patterns, key=lambda file: file.path))


def _is_the_hubs(path: Path, file: RepoFile, digests: FileDigests) -> bool:
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    if file.lfs is not None:
        return digests.of(path) == file.lfs.sha256
    # Small files are kept by git itself, whose digest is of a head and the content.
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == file.blob_id
