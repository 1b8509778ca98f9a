"""What checks look at: where an item stands, what a task prints of it, and what it asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lm_eval.api.task import ConfigurableTask, Task

from fastdllm.tasks.data_files import is_of_user

Doc = Mapping[str, Any]  # an item, or an example in prompts, by column
Docs = Sequence[Doc]
Tell = Callable[[str], None]  # is given a line about what is odd and not refused
Methods = Mapping[str, Callable[[Doc], Any]]
# Stands for a value of an item; for private use, so no data hold it.
MARK = "\ue000"
# What a task prints, by the methods of lm-eval's tasks.
_PRINTED = ("doc_to_text", "doc_to_target", "doc_to_choice", "doc_to_prefix")


@dataclass(frozen=True, slots=True)
class DryRun:
    """A single task that lm-eval has asked with dummy answers, as the checks of a plan see it.

    samples: as lm-eval returns them, one for each filter and item within the limit.
    tell: is given the lines that only name something.
    docs: all items, whatever the limit.
    printed: what each item prints, by method.
    """

    task: ConfigurableTask
    samples: Sequence[Mapping[str, Any]]
    tell: Tell
    docs: Docs
    printed: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, task: ConfigurableTask, samples: Sequence[Mapping[str, Any]], tell: Tell) -> DryRun:
        """Return the dry run of a task from lm-eval's samples."""
        docs, ways = list(task.eval_docs), printing(task).items()
        printed = [{name: method(doc) for name, method in ways} for doc in docs]
        return cls(task, samples, tell, docs, printed)


def where_is(task: Task, index: int, kind: str = "item") -> str:
    """Name an item, or an example of prompts, for messages."""
    # A task of local files knows where its items stand.
    place = task.place(index, kind) if hasattr(task, "place") else None
    return f"{place}: " * bool(place) + f"task {task.task_name!r}, {kind} {index}"


def is_local(task: Task) -> bool:
    """Whether the items come from files of the user, who can correct them."""
    config = task.config
    return not config.custom_dataset and is_of_user(config.dataset_path)


def scores_itself(task: Task) -> bool:
    """Whether a function of the task, and not lm-eval, scores its answers."""
    is_of_lm_eval = type(task).process_results is ConfigurableTask.process_results
    return not is_of_lm_eval or task.config.process_results is not None


def exact_match_of(task: ConfigurableTask) -> partial[Mapping[str, Any]] | None:
    """Return the exact_match of a task that has options for it, such as what it ignores."""
    function, options = (
        of_all.get("exact_match") for of_all in (task._metric_fn_list, task._metric_fn_kwargs)
    )
    return partial(function, **options) if function is not None and options else None


def printing(task: Task) -> dict[str, Callable[[Doc], Any]]:
    """Return the methods that print an item, by name, those that the task has."""
    methods = {name: getattr(task, name) for name in _PRINTED if hasattr(task, name)}
    if task.config.doc_to_choice is None:
        methods.pop("doc_to_choice", None)
    return methods | {"description": partial(task.resolve_field, field=task.config.description)}


def prints_alike(task: ConfigurableTask) -> bool:
    """Whether items, and examples in prompts, are printed by the same methods."""
    ways = ("doc_to_text", "doc_to_target", "doc_to_choice")
    return all(getattr(task.fewshot_cfg, way) == getattr(task.config, way) for way in ways)


def right_answers(printed: Mapping[str, Any]) -> list[str]:
    """Return the right answers of an item, of which labels name options, by what it prints."""
    target, options = printed["doc_to_target"], printed.get("doc_to_choice")
    n_options = len(options) if isinstance(options, list) else 0
    return [
        str(options[one] if options and isinstance(one, int) and 0 <= one < n_options else one)
        for one in (target if isinstance(target, list) and target else [target])
    ]


def printed_part(
    task: Task, method: Callable[[Doc], Any], doc: Doc, rest: Doc, parts: Sequence[Any]
) -> int | None:
    """Return which part a method's text shows: more often for the item than for the rest of it."""
    try:
        given, without = method(doc), str(method(rest))
    except Exception:  # a template or a helper that fails is reported when the task is planned
        return None
    if isinstance(given, int | float) and task.config.doc_to_choice is not None:
        return None  # the number of an option
    whole = str(given)
    shown = (i for i, part in enumerate(parts) if whole.count(str(part)) > without.count(str(part)))
    return next(shown, None)


def emptied(value: Any) -> Any:
    """Return a value with empty texts in place of all that it holds."""
    return mapped(value, lambda _: "")


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a value with each that it holds, in lists and objects, changed."""
    if isinstance(value, Mapping):
        return {key: mapped(inner, change) for key, inner in value.items()}
    return [mapped(inner, change) for inner in value] if isinstance(value, list) else change(value)
