"""Everything that asks lm-eval to load or evaluate a task.

lm-eval silently skips a broken task file and raises whatever the data loader raised; here each of
these becomes one line that names the file. Import this module only within `lm_eval_environment`.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from fastdllm.common.errors import UserError, error_line, unknown_name
from fastdllm.common.yaml_files import read_yaml_mapping
from fastdllm.decoding.user_code import forget_bytecode, forget_imported, only_counted_imports
from fastdllm.tasks.checks.file_texts import check_texts
from fastdllm.tasks.checks.inspection import prints_alike
from fastdllm.tasks.checks.items import check_answers, check_items, check_questions
from fastdllm.tasks.checks.metric_lists import check_metrics, complain_about_metrics
from fastdllm.tasks.data_files import READ_OPTIONS
from fastdllm.tasks.lm_eval_models import ROLLING, no_rolling
from fastdllm.tasks.lm_eval_setup import CODE_OUTSIDE, CODE_REFUSED, CODE_VARIABLE
from fastdllm.tasks.local_tasks import LocalDataFactory, no_items
from fastdllm.tasks.task_files import find_task_files
from fastdllm.tasks.task_source import TaskSource

# Seed of the examples in few-shot prompts: lm-eval's own default. Not a setting, because planning
# and scoring must produce the same prompts whatever the experiment.
TASK_SEED = 1234
_TASK_FILE = "a task for lm-eval"
# As `evaluate` says that it neither has a metric nor could fetch it.
_HUB_METRIC = re.compile(r"Module '([^']+)' doesn't exist on the Hugging Face Hub")
# As nltk says in its message of many lines which data to download.
_NLTK_RESOURCE = re.compile(r"nltk\.download\('([^']+)'\)")


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """A task, or a group of tasks, ready for lm-eval.

    name: as asked for.
    root: the lm-eval Task or Group.
    leaves: the single tasks, in lm-eval's order.
    primary: (metric, filter) of the task's score.
    helpers: the Python files of its `!function` references.
    """

    name: str
    root: Any
    leaves: Mapping[str, Task]
    primary: tuple[str, str]
    helpers: tuple[Path, ...]

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the file of the task, or of the group, says under `metadata`."""
        owner = self.root.config if isinstance(self.root, Task) else self.root
        return owner.metadata or {}


def load_task(task: TaskSource | str) -> LoadedTask:
    """Load one task or group; a name alone is of a task in tasks/.

    Raises:
        UserError: unknown name, broken YAML, missing or empty data, or no metric.
    """
    source = TaskSource.named(task) if isinstance(task, str) else task
    manager = _manager(source)
    helpers = find_task_files(source).helpers
    forget_helpers(helpers)
    try:
        with only_counted_imports(*helpers):
            loaded = manager.load([source.name])
            for leaf in loaded["tasks"].values():
                if not len(leaf.eval_docs):
                    raise no_items(leaf.task_name, leaf.config.dataset_kwargs)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        # lm-eval, datasets and a task's own helpers may raise anything; the cause stays attached.
        raise _not_loaded(source, manager.task_index[source.name].cfg or {}, error) from error
    for leaf in loaded["tasks"].values():
        if leaf.OUTPUT_TYPE == ROLLING:
            raise no_rolling(leaf.task_name)
        _check_folder(leaf)
        check_metrics(leaf)
        check_texts(leaf)
        check_items(leaf)
    group, leaves = loaded.get("groups", {}).get(source.name), loaded["tasks"]
    return LoadedTask(
        name=source.name,
        root=group or next(iter(leaves.values())),
        leaves=leaves,
        primary=_primary_metric(group, leaves, str(source.file)),
        helpers=helpers,
    )


def _manager(source: TaskSource) -> TaskManager:
    """Return lm-eval's index of the folder of a task, in which its name is that of its file."""
    name, file, folder = source.name, source.file, source.file.parent
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; tasks are YAML files in it")
    try:
        manager = TaskManager(include_path=str(folder), include_defaults=False)
    except TypeError as error:  # by sorting the names of all tasks in the folder
        _complain_about_names(folder)
        raise UserError(f"{folder}: lm-eval cannot list its tasks: {reason_of(error)}") from error
    manager._factory = LocalDataFactory(source)
    if name not in manager.all_tasks:
        if file.is_file():
            read_yaml_mapping(file, what=_TASK_FILE)  # which names what is no YAML
            raise UserError(f"{file}: lacks the line `task: {name}`, by which lm-eval finds it")
        raise unknown_name("task", name, manager.all_tasks, where=str(folder))
    if (other := manager.task_index[name].yaml_path) != file:
        named = f"{other} names it" if other else "a tag of other tasks is its name"
        raise UserError(
            f"task {name!r}: {named}, and lm-eval would take that, not {file}; let no other "
            "file name it"
            if file.is_file()
            else f"{file}: no such file; {named}, but a task, or a group, is a file of its name"
        )
    return manager


def _not_loaded(
    source: TaskSource, config: Mapping[str, Any], error: Exception | SystemExit
) -> UserError:
    """Return the error for what was raised while lm-eval loaded a task.

    config: the keys of its file.

    Raises:
        UserError: an entry of its metric_list was the cause.
    """
    if isinstance(error, StopIteration) or "corresponds to no data" in str(error):
        return no_items(source.name, config.get("dataset_kwargs"))
    if error.args == (None,):  # as lm-eval raises for a metric without a default aggregation
        complain_about_metrics(
            config.get("metric_list"),
            where=str(source.file),
            has_own_metrics=config.get("process_results") is not None,
        )
    is_about_data = type(error).__module__.partition(".")[0] in ("datasets", "pyarrow")
    files = (config.get("dataset_kwargs") or {}).get("data_files") if is_about_data else None
    what = f"its data {files} " if files else ""
    return UserError(f"{source.file}: {what}cannot be loaded: {reason_of(error)}")


def forget_helpers(helpers: Iterable[Path]) -> None:
    """Let lm-eval import a task's helpers, and what they import, as their files are now.

    Raises:
        UserError: two helpers import different modules of one name, of which Python knows one.
    """
    known: dict[str, Path] = {}
    for helper in helpers:
        forget_bytecode(helper)
        for name, file in forget_imported(helper).items():
            if known.setdefault(name, file).resolve() != file.resolve():
                raise UserError(
                    f"{helper}: imports {name} from {file}, but another helper of the task from "
                    f"{known[name]}, and Python knows one module of a name; give them two names"
                )


def set_fewshot(task: LoadedTask, requested: int | None) -> None:
    """Set the number of examples in prompts, and their seed, and understand their labels.

    Raises:
        UserError: it is no number, the task file says 0, which lm-eval never overrules, and another
            is requested, or an example has no right answer.
    """
    for leaf in task.leaves.values():
        from_file = leaf.get_config("num_fewshot")
        if from_file == 0 and requested:
            raise UserError(
                f"task {leaf.task_name!r}: its file says num_fewshot: 0 and what was asked for is "
                f"{requested}; take it out of one of them"
            )
        if from_file is None or requested is not None:
            leaf.set_config(key="num_fewshot", value=requested or 0)
        n = leaf.config.num_fewshot
        if isinstance(n, bool) or not isinstance(n, int) or n < 0:
            raise UserError(
                f"task {leaf.task_name!r}: num_fewshot {n!r} is not allowed; it should be a whole "
                "number"
            )
        leaf.set_fewshot_seed(seed=TASK_SEED)
        # A label such as "B" becomes the number that prompts need, also when a run is scored.
        if n and isinstance(leaf, ConfigurableTask) and prints_alike(leaf):
            check_answers(leaf, list(leaf.fewshot_docs()), "example")


def evaluate_task(
    lm: LM,
    task: LoadedTask,
    *,
    limit: int | None,
    apply_chat_template: bool,
    bootstrap_iters: int = 0,
    allows_code: bool = False,
) -> dict[str, Any]:
    """Evaluate one task with lm-eval and return its result with the samples.

    Prompts have the examples that `set_fewshot` says.

    allows_code: whether the user lets scores come from running the code in answers.

    Does what lm-eval's `simple_evaluate` does with a loaded task, except for its record of the
    machine: that calls pip, git and a compiler in each job, and the summary has its own.

    Raises:
        UserError: a template, filter or metric of the task fails.
    """
    random.seed(TASK_SEED)
    numpy.random.seed(TASK_SEED)
    loaded = TaskManager(include_defaults=False).load([task.root])
    try:
        with only_counted_imports(*task.helpers):
            result = evaluate(
                lm=lm,
                task_dict=loaded,
                limit=limit,
                apply_chat_template=apply_chat_template,
                fewshot_as_multiturn=apply_chat_template,
                bootstrap_iters=bootstrap_iters,
                log_samples=True,
                confirm_run_unsafe_code=allows_code,
            )
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        for leaf in loaded["tasks"].values():
            check_questions(leaf)
        # `lm` only records or looks up, so the files of the task are to blame.
        raise UserError(f"task {task.name!r} cannot be evaluated: {reason_of(error)}") from error
    assert result is not None, "lm-eval returns a result in a single process"
    return dict(result)


def item_digests(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[str]]:
    """Digest, for each task and in the order of its items, what an item asks and its target.

    samples: of a result of `evaluate_task`.
    """
    digests = {}
    for task, of_task in samples.items():
        # Each filter has its own samples of the same items.
        items = {sample["doc_id"]: [sample["target"], sample["arguments"]] for sample in of_task}
        texts = (json.dumps(items[number], sort_keys=True, default=str) for number in sorted(items))
        digests[task] = [hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts]
    return digests


def reason_of(error: BaseException) -> str:
    """Return an exception in one line; one about what is not installed, with what brings it."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return f"it imports {error.name!r}, which " + (
            f"the {package} that is installed here lacks"
            if package in sys.modules
            else "is not installed here; install the package that brings it into this environment "
            "(pip install)"
        )
    resource = _NLTK_RESOURCE.search(str(error)) if isinstance(error, LookupError) else None
    if resource is not None:
        return (
            f"it needs the nltk data {resource[1]!r}, which is not here; on a node with network: "
            f"python -m nltk.downloader {resource[1]}"
        )
    metric = _HUB_METRIC.search(str(error)) if isinstance(error, FileNotFoundError) else None
    if metric is not None:
        return (
            f"it needs the metric {metric[1]!r} of the Hugging Face hub, which is not here; on a "
            "node with network it is fetched (of a task in tasks/: fastdllm fetch)"
        )
    if CODE_VARIABLE in str(error):
        return CODE_OUTSIDE
    if "marked as unsafe" in str(error):
        return CODE_REFUSED
    return error_line(error)


def _complain_about_names(folder: Path) -> None:
    """Raise an error for the first file whose task has no name that lm-eval could sort."""
    for file in sorted(folder.glob("**/*.yaml")):
        name = read_yaml_mapping(file, what=_TASK_FILE).get("task", "")
        if not isinstance(name, str | list):
            raise UserError(f"{file}: task: {name!r} is not allowed; it should be a name")


def _check_folder(task: Task) -> None:
    """Refuse a folder of JSON or CSV files, of whose values `datasets` guesses the types."""
    folder, splits = task.config.dataset_path, getattr(task, "dataset", None)
    if not isinstance(splits, Mapping) or not Path(str(folder)).is_dir():
        return
    for split, data in splits.items():
        builder = getattr(data, "builder_name", None)
        if builder in READ_OPTIONS:
            raise UserError(
                f"task {task.task_name!r}: dataset_path: {folder}: values of a folder's {builder} "
                "files may become others (007 becomes 7, and 93 becomes 93.0); name the files "
                f"themselves: dataset_path: {builder}, and dataset_kwargs: {{data_files: {{{split}:"
                " ...}}"
            )


def _primary_metric(group: Any, leaves: Mapping[str, Task], where: str) -> tuple[str, str]:
    """Read `metadata.primary_metric` ("metric,filter"), else take the first metric and filter."""
    first = next(iter(leaves.values()))
    filters = [item.name for item in getattr(first, "_filters", [])] or ["none"]
    owner = group if group is not None else first.config
    declared = (owner.metadata or {}).get("primary_metric")
    if declared is not None:
        metric, _, chosen_filter = str(declared).partition(",")
        return metric.strip(), chosen_filter.strip() or "none"
    if group is not None and group.aggregate_metric_list:
        aggregate = group.aggregate_metric_list[0]
        # Without filter_list, lm-eval aggregates all filters that the tasks have.
        return aggregate.metric, (aggregate.filter_list or filters)[0]
    metrics = list(first.aggregation())
    if not metrics:
        raise UserError(f"{where}: metric_list is empty; a task needs at least one metric")
    return metrics[0], filters[0]
