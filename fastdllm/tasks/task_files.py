"""The local files that a task is read from: YAML, Python helpers, data.

Read here only, since others must agree on it: these files enter the fingerprint of a run. Follows
lm-eval 0.4 (includes, groups, tags), and does not import it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdllm.common.errors import UserError, unknown_name
from fastdllm.common.yaml_files import read_yaml_mapping
from fastdllm.tasks.data_files import data_files_of
from fastdllm.tasks.task_source import TaskSource

_DATA_KEYS = ("dataset_path", "dataset_kwargs", "custom_dataset")


@dataclass(frozen=True, slots=True)
class TaskFiles:
    """Everything local behind one task, or behind a group of tasks.

    layers: each YAML file with its own keys.
    helpers: the Python files of `!function` references.
    data: data files, by the name that counts: a file's own, or its path within a data folder.
    """

    layers: tuple[tuple[Path, dict[str, Any]], ...]
    helpers: tuple[Path, ...]
    data: tuple[tuple[str, Path], ...]


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
    data = [data_files_of(task, source.with_data(values), source) for task, values in tasks]
    return TaskFiles(
        layers=tuple(folder.used.items()),
        helpers=tuple(dict.fromkeys(helpers_of(folder.used))),
        data=tuple(dict.fromkeys(item for items in data for item in items)),
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


def _about_data(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: values[key] for key in _DATA_KEYS if key in values}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def helpers_of(layers: Mapping[Path, Mapping[str, Any]]) -> Iterator[Path]:
    """Yield the Python file of each `!function` reference.

    Raises:
        UserError: it is missing.
    """
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
    if isinstance(value, Mapping) and isinstance(value.get("!function"), str):
        yield value["!function"]
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _functions(inner)
