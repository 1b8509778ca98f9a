"""Items that lm-eval would ask or score without meaning, found before anything is decoded.

lm-eval prints a missing value as `None`, gives 0 for a label that is none of the options, and takes
every letter of a text for an option. Nothing of that stops an evaluation; here it does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, time
from typing import Any

from lm_eval.api.task import Task

from fastdllm.common.errors import UserError

# What a task prints, by the methods of lm-eval's tasks.
PRINTED = ("doc_to_text", "doc_to_target", "doc_to_choice", "doc_to_prefix")


def check_items(task: Task) -> None:
    """Refuse items that change, print no value in a prompt or target, or have no valid label.

    A label that is text is understood if it is the number or the letter of an option.

    Raises:
        UserError: naming the item and the column, or the label.
    """
    docs = list(task.eval_docs)
    # lm-eval reads the items again when it scores: it would score other ones than it asked.
    for index, (doc, again) in enumerate(zip(docs, task.eval_docs, strict=True)):
        if repr(doc) != repr(again):
            raise UserError(
                f"{_where(task, index)}: is another one each time it is read; process_docs draws "
                "at random: let it make its generator itself, as random.Random(0)"
            )
        _check_values(task, doc, _where(task, index))
    if task.OUTPUT_TYPE == "multiple_choice" and not getattr(task, "multiple_input", 0):
        _check_labels(task, docs)


def _where(task: Task, index: int) -> str:
    return f"task {task.task_name!r}, item {index}"


def _check_values(task: Task, doc: Mapping[str, Any], where: str) -> None:
    for column, value in doc.items():
        if not _is_no_value(value):
            continue
        for name in PRINTED:
            if _prints(getattr(task, name, None), doc, column):
                raise UserError(
                    f"{where}: column {column!r} is {value}, and {name} prints it; complete the "
                    "data, or leave the item out"
                )


def _is_no_value(value: Any) -> bool:
    is_nan = isinstance(value, float) and not math.isfinite(value)
    # A date that was text in the data prints in another form.
    return value is None or is_nan or isinstance(value, date | time)


def _prints(method: Any, doc: Mapping[str, Any], column: str) -> bool:
    """Whether the text of a method shows the value of a column: less often without the value."""
    if method is None:
        return False
    try:
        with_value, without = method(doc), method({**doc, column: ""})
    except Exception:  # a template or a helper that fails is reported when the task is planned
        return False
    shown = str(doc[column])
    if with_value is doc[column] or with_value == shown:
        return True
    return str(with_value).count(shown) > str(without).count(shown)


def _check_labels(task: Task, docs: Iterable[Mapping[str, Any]]) -> None:
    original, is_same = task.config.doc_to_target, True

    def numbers(doc: Mapping[str, Any]) -> int | list[int]:
        label, options = task.doc_to_target(doc, original), task.doc_to_choice(doc)
        if isinstance(label, list):
            return [option_number(part, options) for part in label]
        return option_number(label, options)

    for index, doc in enumerate(docs):
        options = task.doc_to_choice(doc)
        if not isinstance(options, list) or not all(isinstance(o, str) and o for o in options):
            raise UserError(f"{_where(task, index)}: options {options!r}: not a list of texts")
        try:
            label = task.doc_to_target(doc)
            is_same &= numbers(doc) == label or label in options
        except ValueError as error:
            raise UserError(f"{_where(task, index)}: {error}") from None
    if not is_same:
        task.config.doc_to_target = numbers


def option_number(label: Any, options: Sequence[str]) -> int:
    """Return the number, from 0, of the option that a label names.

    A label is an option's text, its number, or its letter (A is 0).

    Raises:
        ValueError: it names none.
    """
    if isinstance(label, str) and label in options:
        return options.index(label)
    number = label
    if isinstance(label, str):
        text = label.strip()
        is_letter = len(text) == 1 and text.isascii() and text.isalpha()
        number = (
            ord(text.upper()) - ord("A") if is_letter else int(text) if text.isdecimal() else -1
        )
    elif isinstance(label, float) and label.is_integer():
        number = int(label)
    if not isinstance(number, int) or not 0 <= number < len(options):
        raise ValueError(
            f"label {label!r} is none of its {len(options)} options (test sets often hide theirs)"
        )
    return number
