"""Copy a task of lm-eval into the project: its YAML without includes, its Python helpers.

What it asks and how it is scored stays as it is; its data becomes local files, named with the data
set of the hub that they come from. Import this module only within `lm_eval_environment`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Entry, Kind

from fastdllm.common.errors import UserError, unknown_name
from fastdllm.common.paths import TASKS
from fastdllm.tasks.generation import BUDGET_NAMES
from fastdllm.tasks.lm_eval_models import ROLLING, no_rolling
from fastdllm.tasks.task_files import Folder
from fastdllm.tasks.task_source import LOCAL_BUILDERS, metadata_of

# What lm-eval's own models take where a task names no limit.
LM_EVAL_BUDGET = 256
_WIDTH = 100
_SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
# The keys of a group that are not meant for its members.
_OF_GROUPS = ("group", "group_alias", "task", "tag", "include", "aggregate_metric_list", "metadata")

Values = dict[str, Any]
DataSet = tuple[str, str | None, str | None]  # repository, configuration and revision


@dataclass(slots=True)
class TaskCopy:
    """The files that a copied task consists of, and what to look at in them.

    files: text by path within tasks/.
    names: of all tasks and groups in it.
    notes: one line each.
    """

    name: str
    files: dict[Path, str] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def copy_task(name: str, index: Mapping[str, Entry]) -> TaskCopy:
    """Return the files of a task, a group or a tag of lm-eval; nothing is written.

    index: the tasks of lm-eval by name.

    Raises:
        UserError: there is no such task, or it has something that has no counterpart here.
    """
    if name not in index:
        # Not all of lm-eval's thousands.
        similar = [other for other in index if name in other][:10]
        similar += difflib.get_close_matches(name, index, n=10)
        raise unknown_name("task", name, dict.fromkeys(similar), "lm-eval")
    return _Copier(name, index).copied()


def lm_eval_index() -> Mapping[str, Entry]:
    """Return all tasks, groups and tags of lm-eval by name, in about ten seconds."""
    return TaskManager().task_index


class _Copier:
    """One copy at work: members are read first, as where their data goes depends on all."""

    def __init__(self, name: str, index: Mapping[str, Entry]) -> None:
        self.name, self.index = name, index
        self.copy = TaskCopy(name)
        self.folder = Path(name.replace(".", "_"))
        self.leaves: dict[str, Values] = {}
        self.groups: dict[str, Values] = {}
        self.modules: dict[Path, str] = {}

    def copied(self) -> TaskCopy:
        entry = self.index[self.name]
        if entry.kind is Kind.TAG:
            members = list(self._members(entry.tags, {}))
            self.groups[self.name] = {"group": self.name, "task": members}
        else:
            self._read(entry, {})
        places = _places([_data_set(leaf) for leaf in self.leaves.values()])
        for name, values in self.leaves.items():
            self._put(name, self._localized(values, places[_data_set(values)]))
        for name, values in self.groups.items():
            self._put(name, values)
        self.copy.names = [*self.groups, *self.leaves]
        return self.copy

    def _read(self, entry: Entry, overrides: Mapping[str, Any]) -> None:
        """Keep the keys of a task, or of a group and of all its members."""
        if entry.kind is Kind.PY_TASK or entry.yaml_path is None:
            raise UserError(f"task {entry.name!r}: is written in Python, and has no file to copy")
        values: Values = {}
        for file, layer in Folder(entry.yaml_path.parent).layers(entry.yaml_path):
            values |= _renamed(layer, partial(self._copy_helper, file.parent))
        for key in ("include", "task_list"):
            values.pop(key, None)
        if entry.kind is not Kind.GROUP:
            values.pop("tag", None)
            self.leaves[entry.name] = values | {**overrides, "task": entry.name}
            return
        own = {key: value for key, value in values.items() if key not in _OF_GROUPS}
        kept = {key: values[key] for key in _OF_GROUPS if key in values and key != "tag"}
        members = values.get("task")
        listed = members if isinstance(members, list) else [members]
        self.groups[entry.name] = kept | {"task": list(self._members(listed, {**own, **overrides}))}

    def _members(self, members: Iterable[Any], overrides: Mapping[str, Any]) -> Iterator[str]:
        """Read the members of a group; yield the names of tasks and groups."""
        for member in sorted(members) if isinstance(members, set) else members:
            own = dict(member) if isinstance(member, Mapping) else {"task": member}
            name = own.pop("group", None) or own.pop("task", None)
            entry = self.index.get(str(name))
            if entry is None:
                raise UserError(
                    f"task {self.name!r}: its member {name!r} has no file of its own in lm-eval, "
                    "and is not copied; copy the others, and write a group of them"
                )
            if entry.kind is Kind.TAG:
                yield from self._members(entry.tags, {**overrides, **own})
            else:
                self._read(entry, {**overrides, **own})
                yield entry.name

    def _copy_helper(self, folder: Path, function: str) -> str:
        """Copy the module of a helper; return the helper's name in the copy."""
        module, _, name = function.rpartition(".")
        file = (folder / f"{module.replace('.', '/')}.py").resolve()
        if not file.is_file():
            return function  # of an installed package
        if file not in self.modules:
            others = sum(known.stem == file.stem for known in self.modules)
            self.modules[file] = file.stem if not others else f"{file.stem}_{others + 1}"
            path = self.folder / f"{self.modules[file]}.py"
            self.copy.files[path] = file.read_text(encoding="utf-8")
        return f"{self.modules[file]}.{name}"

    def _localized(self, values: Values, place: Path) -> Values:
        """Return a task whose data are local files in `place`, which says where they come from."""
        repo, config, revision = _data_set(values)
        few = values.get("fewshot_config") or {}
        named = [*(values.get(key) for key in _SPLITS), few.get("split")]
        splits = dict.fromkeys(filter(None, named))
        for split in splits:
            if not re.fullmatch(r"[\w.-]+", str(split)):
                raise UserError(
                    f"task {values['task']!r}: {split!r} is a part of a split, and cannot be "
                    "fetched by name; copy its file by hand"
                )
        files = {split: str(place / f"{split}.jsonl") for split in splits}
        source: Values = {"repo": repo, "config": config, "revision": revision}
        source = {key: value for key, value in source.items() if value is not None}
        source["files"] = {file: split for split, file in files.items()}
        folder = (TASKS / "data" / self.name).as_posix()
        local: Values = {"task": values["task"], "dataset_path": "json"}
        local["dataset_kwargs"] = {"data_dir": folder, "data_files": files}
        left_out = (*local, "dataset_name")
        local |= {key: value for key, value in values.items() if key not in left_out}
        self._check_output(local)
        return local | {"metadata": {**metadata_of(values), "source": source}}

    def _check_output(self, values: Values) -> None:
        """Write down what lm-eval leaves to its models, which a task here has to say."""
        kind = values.get("output_type", "generate_until")
        if kind == ROLLING:
            raise no_rolling(values["task"])
        if kind != "generate_until":
            return
        wishes = dict(values.get("generation_kwargs") or {})
        if "until" not in wishes:
            wishes["until"] = [values.get("fewshot_delimiter", "\n\n")]
            self._note(f"generation_kwargs.until is {wishes['until']!r}, as lm-eval takes it")
        if not any(name in wishes for name in BUDGET_NAMES):
            wishes["max_gen_toks"] = LM_EVAL_BUDGET
            self._note(
                f"generation_kwargs.max_gen_toks is {LM_EVAL_BUDGET}, as lm-eval's models take it; "
                "answers with their reasoning need more"
            )
        values["generation_kwargs"] = wishes

    def _note(self, line: str) -> None:
        if line not in self.copy.notes:
            self.copy.notes.append(line)

    def _put(self, name: str, values: Values) -> None:
        is_top = name == self.name
        if is_top:
            metric, filter_name = self._first_metric()
            if "group" in values and not values.get("aggregate_metric_list"):
                aggregate = {"metric": metric, "aggregation": "mean", "weight_by_size": True}
                values["aggregate_metric_list"] = [aggregate | {"filter_list": [filter_name]}]
            primary = f"{metric},{filter_name}"
            metadata = {"primary_metric": primary, "options": {"apply_chat_template": True}}
            values["metadata"] = {**metadata, **metadata_of(values)}
            self._note(f"metadata.primary_metric is {primary}")
            self._note("metadata.options wraps prompts in the chat template (apply_chat_template)")
            values = _renamed(values, self._beside)
        path = Path(f"{name}.yaml") if is_top else self.folder / f"{name}.yaml"
        self.copy.files[path] = _yaml(values)

    def _beside(self, function: str) -> str:
        """Return a helper's name as a file beside the folder has it, in which its module is."""
        is_copied = function.rpartition(".")[0] in self.modules.values()
        return f"{self.folder.name}.{function}" if is_copied else function

    def _first_metric(self) -> tuple[str, str]:
        """Return metric and filter that a task, or a group, names first."""
        top = self.groups.get(self.name, {})
        leaf = next(iter(self.leaves.values()))
        filters = [entry["name"] for entry in leaf.get("filter_list") or []] or ["none"]
        for entry in _listed(top.get("aggregate_metric_list")):
            of_entry = [*_listed(entry.get("filter_list")), *filters]
            return str(entry["metric"]), str(of_entry[0])
        kind = leaf.get("output_type", "generate_until")
        metrics = leaf.get("metric_list") or [{"metric": m} for m in DEFAULT_METRIC_REGISTRY[kind]]
        # Perplexities and the like cannot be primary.
        shares = (entry for entry in metrics if entry.get("higher_is_better") is not False)
        metric = next(shares, metrics[0])["metric"]
        name = metric["!function"].rpartition(".")[2] if isinstance(metric, Mapping) else metric
        return str(name), str(filters[0])


def _renamed(value: Any, rename: Callable[[str], str]) -> Any:
    """Return values with the name of each `!function` changed."""
    if isinstance(value, list):
        return [_renamed(inner, rename) for inner in value]
    if not isinstance(value, Mapping):
        return value
    if isinstance(value.get("!function"), str):
        return {"!function": rename(value["!function"])}
    return {key: _renamed(inner, rename) for key, inner in value.items()}


def _data_set(values: Mapping[str, Any]) -> DataSet:
    """Return the data set of the hub that a task reads.

    Raises:
        UserError: it reads something else, or only a part that cannot be named here.
    """
    where = f"task {values['task']!r}"
    repo, options = values.get("dataset_path"), dict(values.get("dataset_kwargs") or {})
    options.pop("trust_remote_code", None)
    revision = options.pop("revision", None)
    if values.get("custom_dataset") or not isinstance(repo, str) or repo in LOCAL_BUILDERS:
        raise UserError(f"{where}: its data is no data set of the hub; copy its file by hand")
    if options:
        raise UserError(
            f"{where}: dataset_kwargs has {', '.join(map(str, options))}, which cannot be fetched "
            "by name; copy its file by hand"
        )
    config = values.get("dataset_name")
    return repo, None if config is None else str(config), revision


def _places(data_sets: Iterable[DataSet]) -> dict[DataSet, Path]:
    """Return where in the folder of the data the files of each data set go."""
    known = list(dict.fromkeys(data_sets))
    if len(known) == 1:
        return {known[0]: Path()}
    labels = {data_set: data_set[1] or data_set[0].rpartition("/")[2] for data_set in known}
    if len(set(labels.values())) < len(known):
        labels = {data_set: "_".join(filter(None, data_set)) for data_set in known}
    return {key: Path(re.sub(r"[^\w.-]", "_", label)) for key, label in labels.items()}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent(dumper: _Dumper, value: dict[str, Any]) -> yaml.Node:
    if value.keys() == {"!function"}:
        return dumper.represent_scalar("!function", value["!function"])
    return dumper.represent_dict(value)


def _represent_text(dumper: _Dumper, value: str) -> yaml.Node:
    style = None if "\n" not in value else '"' if len(value) <= _WIDTH else "|"
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(dict, _represent)
_Dumper.add_representer(str, _represent_text)


def _yaml(values: Values) -> str:
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH)
