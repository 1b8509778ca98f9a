"""What a task prints of an item, and what of it comes from a value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from lm_eval.api.task import Task

# What a task prints, by the methods of lm-eval's tasks.
PRINTED = ("doc_to_text", "doc_to_target", "doc_to_choice", "doc_to_prefix")


def printing(task: Task) -> dict[str, Any]:
    """Return the methods that print an item, by name; None for one that the task lacks."""
    methods = {name: getattr(task, name, None) for name in PRINTED}
    if task.config.doc_to_choice is None:
        del methods["doc_to_choice"]
    return methods | {"description": partial(task.resolve_field, field=task.config.description)}


def printed_texts(task: Task) -> list[dict[str, Any]]:
    """Return what each item prints, by method."""
    ways = {name: method for name, method in printing(task).items() if method is not None}
    return [{name: way(doc) for name, way in ways.items()} for doc in task.eval_docs]


def printed_part(
    task: Task,
    method: Any,
    doc: Mapping[str, Any],
    rest: Mapping[str, Any],
    parts: Sequence[Any],
) -> int | None:
    """Return which part a method's text shows: more often for the item than for the rest of it."""
    if method is None:
        return None
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
