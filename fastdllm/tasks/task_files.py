"""The local files that a task is read from: YAML, Python helpers, data.

Read here only, since others must agree on it: these files enter the fingerprint of a run, and a
task without any other is kept off the network. Follows lm-eval 0.4 (includes, groups, tags) and
`datasets` (which files a name means), and imports neither.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdllm.common.errors import UserError, unknown_name
from fastdllm.common.paths import expanded
from fastdllm.common.yaml_files import read_yaml_mapping
from fastdllm.tasks.task_source import LOCAL_BUILDERS, TaskSource

# Endings of files that `datasets` unpacks, but local_data.py does not.
_ARCHIVES = (".zst", ".lz4", ".zip", ".tar", ".tgz", ".7z", ".rar")
# The dataset_kwargs of files that local_data.py reads; the third has no effect on them.
_FILE_OPTIONS = ("data_files", "data_dir", "trust_remote_code")
READ_OPTIONS = {"json": ("field",), "csv": ("delimiter", "sep")}
# The name of a part of a data set, numbered from 0.
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.\w+)")
_DATA_KEYS = ("dataset_path", "dataset_kwargs", "custom_dataset")
# The key of `metadata` that names the data set of the hub which the files come from.
SOURCE = "source"
_ROOT = "a path starts at the folder of workflow_config.yaml"


@dataclass(frozen=True, slots=True)
class TaskFiles:
    """Everything local behind one task, or behind a group of tasks.

    layers: each YAML file with its own keys.
    helpers: the Python files of `!function` references.
    data: data files, by the name that counts: a file's own, or its path within a data folder.
    is_local: whether no data comes from anywhere else.
    """

    layers: tuple[tuple[Path, dict[str, Any]], ...]
    helpers: tuple[Path, ...]
    data: tuple[tuple[str, Path], ...]
    is_local: bool


def find_task_files(source: TaskSource) -> TaskFiles:
    """Find all files behind a task; members of a group are searched in the same folder.

    Raises:
        UserError: a file that is named is missing or broken, or a member is unknown or there twice.
    """
    file = source.file
    folder = Folder(file.parent)
    tasks = list(folder.single_tasks(file))
    names = [values.get("task") for _, values in tasks]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"{file}: task {name!r} occurs twice in the group, where lm-eval would count it "
                "twice or leave one out; name it once, and give a variant a name of its own"
            )
    source.check_folders(values for _, values in tasks)
    data = [_data(task, source.with_data(values), source) for task, values in tasks]
    return TaskFiles(
        layers=tuple(folder.used.items()),
        helpers=tuple(dict.fromkeys(_helpers(folder.used))),
        data=tuple(dict.fromkeys(item for items, _ in data for item in items)),
        is_local=all(is_local for _, is_local in data),
    )


class Folder:
    """A folder of task files, each read once; `used` are those that the task consists of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.used: dict[Path, dict[str, Any]] = {}
        self._read: dict[Path, dict[str, Any]] = {}
        self._tasks: dict[str, Path] | None = None
        self._namesakes: dict[str, Path] = {}
        self._tags: dict[str, list[Path]] = {}

    def single_tasks(
        self, file: Path, inherited: Mapping[str, Any] | None = None, above: tuple[Path, ...] = ()
    ) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yield the tasks in a file, one or a group's members, each as its file and merged keys.

        inherited: keys about the data that the groups above set for their members.
        """
        if file in above:
            raise UserError(f"{file}: the group contains itself; take it out of its `task` list")
        layers = self.layers(file)
        self.used |= dict(layers)
        yield from self._expand(merged_keys(layers), inherited or {}, (*above, file))

    def _expand(
        self, values: Mapping[str, Any], inherited: Mapping[str, Any], above: tuple[Path, ...]
    ) -> Iterator[tuple[Path, dict[str, Any]]]:
        members, file = values.get("task"), above[-1]
        if not isinstance(members, list):
            yield file, {**values, **inherited}
            return
        inherited = {**_about_data(values), **inherited}
        for member in members:
            inline = member if isinstance(member, dict) else {}
            name = inline.get("group", inline.get("task")) if inline else member
            if not isinstance(name, str):
                raise UserError(f"{file}: task: {name!r} is not allowed; name a task or a group")
            merged = {**inherited, **_about_data(inline)}
            files = self.files_of(name)
            for path in files:
                yield from self.single_tasks(path, merged, above)
            if not files and inline:
                # In lm-eval a new group is overruled by the one around it, a new task is not.
                yield from self._expand(inline, inherited if "group" in inline else merged, above)
            elif not files and "dataset_path" in inherited:
                yield file, {**inherited, "task": name}
            elif not files:
                raise self._unknown_member(name, file)

    def layers(self, file: Path) -> list[tuple[Path, dict[str, Any]]]:
        """A file and what it includes, in the order in which later keys replace earlier ones."""
        layers: list[tuple[Path, dict[str, Any]]] = []
        seen: set[Path] = set()

        def add(file: Path, what: str) -> None:
            seen.add(file.resolve())
            if file not in self._read:
                self._read[file] = read_yaml_mapping(file, what=what)
            values = self._read[file]
            for name in _as_list(values.get("include", [])):
                if not isinstance(name, str):
                    raise UserError(
                        f"{file}: include: {name!r} is not allowed; it should be a file, or a list "
                        "of files"
                    )
                base = file.parent / name
                if base.resolve() in seen:
                    raise UserError(
                        f"{file}: include: {name} is included twice, which lm-eval refuses; "
                        "include it once"
                    )
                add(base, f"the file that {file} includes")
            layers.append((file, values))

        add(file, "a task for lm-eval")
        return layers

    def files_of(self, name: str) -> list[Path]:
        """Return the file of a task or a group, or those of the tasks that have a tag.

        Raises:
            UserError: two files name the same task.
        """
        if self._tasks is None:
            self._tasks = {}
            # lm-eval's own order: the first file of a name wins.
            for file in sorted(self.folder.glob("**/*.yaml"), key=Path.as_posix):
                self._index(file, self._tasks)
        if name in self._namesakes:
            raise UserError(
                f"{self._tasks[name]} and {self._namesakes[name]}: both name the task {name!r}, of "
                "which lm-eval takes the first; give one another name"
            )
        return [self._tasks[name]] if name in self._tasks else self._tags.get(name, [])

    def _index(self, file: Path, tasks: dict[str, Path]) -> None:
        try:
            values = merged_keys(self.layers(file))
        except UserError:
            return  # matters only if it turns out to be the missing member
        is_group = "group" in values and "class" not in values
        name = values.get("group" if is_group else "task")
        if isinstance(name, str) and tasks.setdefault(name, file) != file:
            self._namesakes[name] = file
        elif isinstance(name, str):
            for tag in [] if is_group else _as_list(values.get("tag") or []):
                self._tags.setdefault(str(tag), []).append(file)

    def _unknown_member(self, name: str, file: Path) -> UserError:
        expected = self.folder / f"{name}.yaml"
        if expected.is_file():
            try:
                self.layers(expected)
            except UserError as error:
                return error
        return unknown_name("task", name, [*(self._tasks or {}), *self._tags], f"{file}: task")


def merged_keys(layers: Iterable[tuple[Path, dict[str, Any]]]) -> dict[str, Any]:
    """Return the keys of layers, of which a later one replaces an earlier."""
    return {key: value for _, values in layers for key, value in values.items()}


def metadata_of(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `metadata` of the merged keys of a task or a group; {} if it has none."""
    metadata = values.get("metadata")
    return metadata if isinstance(metadata, Mapping) else {}


def _about_data(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: values[key] for key in _DATA_KEYS if key in values}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _helpers(layers: Mapping[Path, Mapping[str, Any]]) -> Iterator[Path]:
    for file, values in layers.items():
        for function in _functions(values):
            module = function.rpartition(".")[0] or function
            path = file.parent / f"{module.replace('.', '/')}.py"
            if not path.is_file():
                raise UserError(
                    f"{file}: !function {function}: no such file {path}; put the helper there"
                )
            yield path


def _functions(value: Any) -> Iterator[str]:
    """Yield the `!function module.name` references anywhere in a task."""
    if isinstance(value, Mapping):
        if isinstance(value.get("!function"), str):
            yield value["!function"]
        for inner in value.values():
            yield from _functions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _functions(inner)


def _data(
    file: Path, values: Mapping[str, Any], of: TaskSource
) -> tuple[list[tuple[str, Path]], bool]:
    """Return the local data files of a single task, and whether it has no other data."""
    source, options = values.get("dataset_path"), values.get("dataset_kwargs")
    options = options if isinstance(options, Mapping) else {}
    root = None if values.get("custom_dataset") else _data_root(source, file)
    if root is None:
        return [], False
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
    local_names = [name for name in names if "://" not in _outer(name)]
    for name in local_names:
        where = f"{file}: dataset_kwargs.data_files"
        data_files += [(path.name, path) for path in _matches(base, name, where)]
    _check_shards(file, [path for _, path in data_files])
    return data_files, local_names == names


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


def is_of_user(source: Any, options: Mapping[str, Any] | None) -> bool:
    """Whether a task's `dataset_path` and `dataset_kwargs` name a folder or files that are here."""
    names = texts((options or {}).get("data_files"))
    is_here = source in LOCAL_BUILDERS or Path(str(source)).is_dir()
    return is_here and not any("://" in _outer(name) for name in names)


def split_files(values: Mapping[str, Any]) -> dict[str, list[Path]] | None:
    """Return the local JSON or CSV files of each split of a task, by its merged keys.

    None if its data is something else.

    Raises:
        UserError: a file is missing, or only `datasets` could read it, which guesses the types of
            its values.
    """
    source, options = values.get("dataset_path"), values.get("dataset_kwargs") or {}
    if source not in READ_OPTIONS or values.get("custom_dataset"):
        return None
    if not is_of_user(source, options):
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
    options = values.get("dataset_kwargs") or {}
    names = options.get("data_files")
    if (
        values.get("dataset_path") not in LOCAL_BUILDERS
        or not names
        or values.get("custom_dataset")
    ):
        return dict(values)
    base = expanded(str(options.get("data_dir") or ""))
    where = f"task {values.get('task')!r}: dataset_kwargs.data_files"
    files: dict[str, list[str]] = {}
    for split, name in _by_split(names):
        is_remote = "::" in name or "://" in name
        found = [] if is_remote else _matches(base, name, where)
        paths = [name] if is_remote else [glob.escape(str(file.absolute())) for file in found]
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


def _data_root(source: Any, file: Path) -> Path | None:
    """The folder that a task's `dataset_path` starts from; None for a data set on the hub."""
    if source in LOCAL_BUILDERS:
        return Path()
    if not isinstance(source, str) or "://" in source:
        return None
    folder = Path(source)
    if folder.is_dir():
        return folder
    is_id = len(folder.parts) == 1 or (len(folder.parts) == 2 and not folder.parent.is_dir())
    if source.startswith((".", "/", "~")) or not (is_id or source.startswith("buckets/")):
        raise UserError(
            f"{file}: dataset_path: {source}: no such folder; {_ROOT}; a data set on the Hugging "
            "Face hub is owner/name"
        )
    return None


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
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
