"""The local data files that a task names, as `datasets` would find them, which is not imported.

task_files.py says which tasks there are, local_data.py reads the rows.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fastdllm.common.errors import UserError, unknown_name
from fastdllm.common.paths import expanded
from fastdllm.tasks.task_source import LOCAL_BUILDERS, SOURCE, TaskSource, kwargs_of, metadata_of

# Endings of files that `datasets` unpacks, but local_data.py does not.
_ARCHIVES = (".zst", ".lz4", ".zip", ".tar", ".tgz", ".7z", ".rar")
# The dataset_kwargs of files that local_data.py reads; the third has no effect on them.
_FILE_OPTIONS = ("data_files", "data_dir", "trust_remote_code")
READ_OPTIONS = {"json": ("field",), "csv": ("delimiter", "sep")}
# The name of a part of a data set, numbered from 0.
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.\w+)")
_ROOT = "a path starts at the folder of workflow_config.yaml"
_FROM_ELSEWHERE = (
    "data of the Hugging Face hub, which jobs cannot reach, comes by metadata.source "
    "(tasks/README.md; fastdllm new-task NAME writes it for a task of lm-eval)"
)


def data_files_of(file: Path, values: Mapping[str, Any], of: TaskSource) -> list[tuple[str, Path]]:
    """Return the data files of a single task by name; none of one that makes its own data.

    Raises:
        UserError: a file is missing, or is elsewhere: jobs have no network.
    """
    source, options = values.get("dataset_path"), kwargs_of(values)
    if values.get("custom_dataset") or source is None:
        return []
    root = _data_root(source, file)
    data_dir, names = options.get("data_dir"), sorted(set(texts(options.get("data_files"))))
    base = root / expanded(str(data_dir or ""))
    if SOURCE in metadata_of(values):
        for name in names:
            if not _found(base, name):
                raise of.not_here(base / name)
    if not base.is_dir():
        where = f"{file}: dataset_kwargs.data_dir" if of.data is None else of.data_key
        raise UserError(f"{where}: {data_dir}: no such folder; {_ROOT}")
    # The README.md of a data set's folder may also define what its files mean.
    folder = root if source not in LOCAL_BUILDERS else base if data_dir and not names else None
    if folder is None and not names:
        raise UserError(
            f"{file}: dataset_path: {source} needs dataset_kwargs.data_files or "
            "dataset_kwargs.data_dir"
        )
    data_files = list(_files_below(folder)) if folder else []
    if folder and not data_files:
        raise UserError(f"{file}: {folder}: holds no file; put the data there")
    for name in names:
        where = f"{file}: dataset_kwargs.data_files"
        if "://" in _outer(name):
            raise UserError(f"{where}: {name}: is not a file here; {_FROM_ELSEWHERE}")
        data_files += [(path.name, path) for path in _matches(base, name, where)]
    _check_shards(file, [path for _, path in data_files])
    return data_files


def _check_shards(task_file: Path, files: Iterable[Path]) -> None:
    """Refuse files such as test-00000-of-00002.parquet of which another part is not there."""
    parts: dict[tuple[str, ...], set[int]] = {}
    for file in files:
        if match := _SHARD.fullmatch(str(file)):
            parts.setdefault(match.group(1, 3, 4), set()).add(int(match[2]))
    for (start, total, end), found in parts.items():
        for number in sorted(set(range(int(total))) - found):
            raise UserError(
                f"{task_file}: its data lacks {start}-{number:0{len(total)}}-of-{total}{end}; name "
                "all parts, or rename those that shall count alone"
            )


def is_of_user(source: Any) -> bool:
    """Whether a task's `dataset_path` says that its data is a folder or files."""
    return source in LOCAL_BUILDERS or Path(str(source)).is_dir()


def split_files(values: Mapping[str, Any]) -> dict[str, list[Path]] | None:
    """Return the local JSON or CSV files of each split of a task, by its merged keys.

    None if its data is something else.

    Raises:
        UserError: a file is missing, or only `datasets` could read it, which guesses the types of
            its values.
    """
    source, options = values.get("dataset_path"), kwargs_of(values)
    if source not in READ_OPTIONS or values.get("custom_dataset"):
        return None
    names = options.get("data_files")
    where = f"task {values.get('task')!r}: dataset_kwargs"
    allowed = (*_FILE_OPTIONS, *READ_OPTIONS[source])
    for key in options:
        if key not in allowed:
            raise unknown_name("key", str(key), allowed, where)
    if not names:
        raise UserError(f"{where}.data_files: name the {source} files there")
    base = expanded(str(options.get("data_dir") or ""))
    files: dict[str, list[Path]] = {}
    for split, name in _by_split(names):
        if name.endswith(_ARCHIVES) or "::" in name:
            raise UserError(f"{where}.data_files: {name}: unpack it, and name the file itself")
        files.setdefault(split, []).extend(_matches(base, name, f"{where}.data_files"))
    return files


def exact_files(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the merged keys of a task, its local files in place of names and patterns.

    `datasets` takes q[1].parquet for a pattern, and would read q1.parquet.
    """
    options, names = kwargs_of(values), kwargs_of(values).get("data_files")
    is_local = values.get("dataset_path") in LOCAL_BUILDERS and not values.get("custom_dataset")
    if not is_local or not names:
        return dict(values)
    base = expanded(str(options.get("data_dir") or ""))
    where = f"task {values.get('task')!r}: dataset_kwargs.data_files"
    files: dict[str, list[str]] = {}
    for split, name in _by_split(names):
        if "::" in name or "://" in name:
            paths = [name]
        else:
            paths = [glob.escape(str(file.absolute())) for file in _matches(base, name, where)]
        files.setdefault(split, []).extend(paths)
    return {**values, "dataset_kwargs": {**options, "data_files": files}}


def _by_split(names: Any) -> Iterator[tuple[str, str]]:
    """Yield the split and the name of each entry of data_files; files alone are the train split."""
    for split, part in (names if isinstance(names, Mapping) else {"train": names}).items():
        yield from ((str(split), name) for name in texts(part))


def _outer(name: str) -> str:
    """The file that a name in an archive is read from: outer.zip of "zip://a.json::outer.zip"."""
    return name.rpartition("::")[2].removeprefix("file://")


def _found(base: Path, name: str) -> list[Path]:
    if (file := base / _outer(name)).is_file():
        return [file]  # a name, even where it could be a pattern: q[1].jsonl
    # Path.glob refuses absolute patterns, and finds only folders for `**`.
    matches = glob.glob(_outer(name), root_dir=base, recursive=True)  # noqa: PTH207
    return [path for path in sorted(base / match for match in matches) if path.is_file()]


def _matches(base: Path, name: str, where: str) -> list[Path]:
    files = _found(base, name)
    if not files:
        start = f"a path starts at {base}" if base != Path() else _ROOT
        raise UserError(f"{where}: {name}: no such file; {start}")
    return files


def _data_root(source: Any, file: Path) -> Path:
    """The folder that a task's `dataset_path` starts from."""
    if source in LOCAL_BUILDERS:
        return Path()
    folder = Path(str(source))
    if not folder.is_dir():
        raise UserError(
            f"{file}: dataset_path: {source}: no such folder; {_ROOT}; {_FROM_ELSEWHERE}"
        )
    return folder


def _files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield all files that `datasets` may read in a folder, by their path in it; follows links."""
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        # A link may lead back to a folder above.
        seen.add(os.path.realpath(place))
        folders[:] = sorted(
            name
            for name in folders
            # `datasets` skips hidden and special folders.
            if not name.startswith((".", "__")) and os.path.realpath(Path(place, name)) not in seen
        )
        for name in sorted(files):
            if not name.startswith("."):
                path = Path(place, name)
                yield path.relative_to(folder).as_posix(), path


def texts(value: Any) -> Iterator[str]:
    """Yield the texts in lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from texts(inner)
