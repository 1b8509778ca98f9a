"""Items that lm-eval would ask or score without meaning, found before anything is decoded.

lm-eval prints a missing value as `None`, gives 0 for a label that is none of the options, and takes
every letter of a text for an option. Nothing of that stops an evaluation; here it does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import date, time, timedelta
from functools import partial
from typing import Any

import numpy
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.utils import apply_template

from fastdllm.common.errors import UserError, error_line
from fastdllm.tasks.checks.inspection import (
    Doc,
    Docs,
    Methods,
    emptied,
    exact_match_of,
    is_local,
    mapped,
    printed_part,
    printing,
    scores_itself,
    where_is,
)
from fastdllm.tasks.checks.labels import LabelReader, misread_digit


def check_items(task: Task) -> None:
    """Refuse items that change, print no value in a prompt or target, or have no right answer.

    A label that is text is understood if it is the number or the letter of an option.
    """
    docs = list(task.eval_docs)
    # lm-eval reads the items again when it scores: it would score other ones than it asked.
    for index, (doc, again) in enumerate(zip(docs, task.eval_docs, strict=True)):
        if repr(doc) != repr(again):
            raise UserError(
                f"{where_is(task, index)}: is another one each time it is read; process_docs draws "
                "at random: let it make its generator itself, as random.Random(0)"
            )
        check_values(task, doc, where_is(task, index))
    if isinstance(task, ConfigurableTask):
        check_answers(task, docs)
        _check_questions_differ(task, docs)
        _check_questions_ask(task, docs)


def check_questions(task: Task) -> None:
    """Refuse the first item whose question or description cannot be written, or is no text."""
    for index, doc in enumerate(task.eval_docs):
        text = _given(task.doc_to_text, doc, where_is(task, index))
        if not isinstance(text, str) and not getattr(task, "multiple_input", 0):
            raise UserError(
                f"{where_is(task, index)}: doc_to_text gives {text!r}, which is no text; write it "
                "as a template, as {{question}} in double quotes"
            )
        _given(printing(task)["description"], doc, where_is(task, index), "description")


def check_answers(task: ConfigurableTask, docs: Docs, kind: str = "item") -> None:
    """Refuse items, or examples of prompts, without a right answer."""
    if task.multiple_input:
        _check_numbers_of_inputs(task, docs, kind)
    elif task.OUTPUT_TYPE == "multiple_choice":
        _check_labels(task, docs, kind)
    elif scores_itself(task):
        # What is right is its own affair, but that it can say so for each item is not.
        for index, doc in enumerate(docs if task.config.doc_to_target is not None else ()):
            _given(task.doc_to_target, doc, where_is(task, index, kind))
    elif task.config.doc_to_choice is not None:
        _check_labels(task, docs, kind)
    else:
        _check_targets(task, docs, kind)


def check_values(task: Task, doc: Doc, where: str, methods: Methods | None = None) -> None:
    """Refuse an item that prints a value which is missing, or which may not be as in the data.

    methods: those that print it, by name, if they are not those of items.
    """
    for column, value in doc.items():
        parts: list[Any] = []
        rest = _taken_out(task, value, parts)
        for name, method in (methods or printing(task)).items() if parts else ():
            part = printed_part(task, method, doc, {**doc, column: rest}, parts)
            if part is None:
                continue
            found = parts[part]
            verb, written = "is" if found is value else "holds", _written_otherwise(task, found)
            advice = "complete the data, or leave the item out"
            if written is not None:
                is_only_scored = task.config.process_results and not task.config.num_fewshot
                if name == "doc_to_target" and is_only_scored:
                    continue  # what scores the items itself knows what the target is
                verb += f" {written} in the data, which becomes"
                advice = "write it as text"
            raise UserError(
                f"{where}: column {column!r} {verb} {found}, and {name} prints it; {advice}"
            )


def _taken_out(task: Task, value: Any, parts: list[Any]) -> Any:
    """Return a value with something else for what must not be printed, listed in `parts`."""

    def other(part: Any) -> Any:
        if not _is_no_value(part) and _written_otherwise(task, part) is None:
            return part
        parts.append(part)
        # A template may ask for a truth, and print what it likes.
        return int(part) if isinstance(part, bool) else ""

    return mapped(value, other)


def _written_otherwise(task: Task, value: Any) -> str | None:
    """Return how the data writes a value, if Python writes it otherwise."""
    if hasattr(task, "written"):  # a task of local files
        found: str | None = task.written(value)
        return found
    if not isinstance(value, float) or not is_local(task):
        return None  # others print published data so as well
    if "e" in repr(value):  # 0.00001, which Python writes as 1e-05
        return numpy.format_float_positional(value, trim="-")
    with numpy.errstate(over="ignore"):
        narrow = numpy.float32(value)
    if narrow != value or str(narrow) == repr(value):
        return None
    # Of float32 in the data, Python prints 0.1 as 0.10000000149011612.
    splits = (getattr(task, "dataset", None) or {}).values()
    is_narrow = any("float32" in str(getattr(data, "features", "")) for data in splits)
    return str(narrow) if is_narrow else None


def _is_no_value(value: Any) -> bool:
    is_nan = isinstance(value, float) and not math.isfinite(value)
    # A date that was text in the data prints in another form.
    return value is None or is_nan or isinstance(value, date | time | timedelta | bytes)


def _given(method: Callable[[Any], Any], doc: Doc, where: str, name: str | None = None) -> Any:
    try:
        return method(doc)
    except Exception as error:  # a template or a helper of the task may raise anything
        raise UserError(f"{where}: {name or method.__name__} fails: {error_line(error)}") from error


def options_of_item(task: ConfigurableTask, doc: Doc, where: str) -> list[str]:
    """Return the options of an item; refuse those that are not all texts."""
    options = _given(task.doc_to_choice, doc, where)
    if not isinstance(options, list) or not all(isinstance(o, str) and o for o in options):
        raise UserError(
            f"{where}: options {options!r}: not a list of texts (in YAML, write"
            ' numbers, yes and no as "1", "yes" and "no"; in a template, {{[a|string, b|string]}})'
        )
    return options


def _check_labels(task: ConfigurableTask, docs: Docs, kind: str) -> None:
    original = task.config.doc_to_target
    wheres = [where_is(task, index, kind) for index in range(len(docs))]
    options_of = list(map(partial(options_of_item, task), docs, wheres))
    labels = list(map(partial(_given, task.doc_to_target), docs, wheres))
    reader = LabelReader(list(zip(labels, options_of, strict=True)))

    def numbers(doc: Doc) -> int | list[int]:
        return reader.number(task.doc_to_target(doc, original), task.doc_to_choice(doc))

    # Only a multiple_choice task looks for a label that is text among the options.
    takes_text = task.OUTPUT_TYPE == "multiple_choice"
    # Of an option alone, exact_match says whether it is the likeliest of all texts.
    compares = takes_text and task.aggregation().keys() != {"exact_match"}
    found = []
    for where, label, options in zip(wheres, labels, options_of, strict=True):
        try:
            found.append((label, reader.number(label, options), options))
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
        if isinstance(label, list) and not label:
            raise UserError(f"{where}: label [] names no option")
        if kind == "item" and compares and len(options) < 2:
            raise UserError(f"{where}: has only the option {options[0]!r}, which any model chooses")
    if (digit := misread_digit(found)) is not None:
        raise UserError(
            f"task {task.task_name!r}: the label {digit!r} is the text of an option, and would be "
            "taken for its number, from 0; make doc_to_target the plain name of a column of texts "
            "(in CSV, whole numbers are none), or give numbers"
        )
    if any(
        (type(label) is not type(number) or label != number)
        and not (takes_text and label in o and o.index(label) == number)
        for label, number, o in found
    ):
        if task.fewshot_cfg.doc_to_target == original:
            task.fewshot_cfg.doc_to_target = numbers
        if kind == "item":
            task.config.doc_to_target = numbers


def _check_questions_differ(task: ConfigurableTask, docs: Docs) -> None:
    """Refuse items that all ask the same and expect different answers."""
    if task.OUTPUT_TYPE == "loglikelihood":
        return  # the targets are what is asked
    ways = printing(task)

    def agree(*names: str) -> bool:
        """Whether all items give the same."""
        given = (
            [_given(ways[name], doc, where_is(task, index), name) for name in names]
            for index, doc in enumerate(docs)
        )
        first = next(given)
        return all(values == first for values in given)

    if agree(*(name for name in ways if name != "doc_to_target")) and not agree("doc_to_target"):
        raise UserError(
            f"task {task.task_name!r}: all items ask the same and expect different answers; let "
            f"doc_to_text print the question (columns: {', '.join(docs[0])})"
        )


def _check_questions_ask(task: ConfigurableTask, docs: Docs) -> None:
    """Refuse an item that prints nothing of its own as a question, for a column that is empty."""
    if task.OUTPUT_TYPE != "generate_until":
        return  # options may say it all
    for index, doc in enumerate(docs):
        blank = [c for c, value in doc.items() if isinstance(value, str) and not value.strip()]
        for column in blank:
            try:
                asked, asks_nothing, with_text = (
                    str(task.doc_to_text(other)).split()
                    for other in (doc, emptied(doc), {**doc, column: "text"})
                )
            except Exception:  # a helper may want other values; check_questions reports the rest
                continue
            if asked == asks_nothing != with_text:
                raise UserError(
                    f"{where_is(task, index)}: column {column!r} is empty, and doc_to_text prints "
                    "nothing else of it; complete the data, or leave the item out"
                )


def _check_numbers_of_inputs(task: ConfigurableTask, docs: Docs, kind: str) -> None:
    """Check what doc_to_text gives where it numbers the right option, each being an input."""
    for index, doc in enumerate(docs):
        where = where_is(task, index, kind)
        text, options = _given(task.doc_to_text, doc, where), options_of_item(task, doc, where)
        if type(text) is not int or not 0 <= text < len(options):
            raise UserError(
                f"{where}: doc_to_text gives {text!r}, and a number for item 0: lm-eval takes "
                "digits for the number of an option; let a word stand before the question"
            )


def _check_targets(task: ConfigurableTask, docs: Docs, kind: str) -> None:
    targets = []
    for index, doc in enumerate(docs):
        where = where_is(task, index, kind)
        targets.append(target := _given(task.doc_to_target, doc, where))
        if (what := _odd(target, task, doc)) is not None:
            raise UserError(f"{where}: target {target!r} {what}")
    if kind != "item" or task.OUTPUT_TYPE != "generate_until":
        return
    _check_what_is_ignored(task, targets)
    # Where no chat template ends a prompt, a word and the space before it go on with it.
    if all(
        isinstance(t, str) and (not t or t not in (t.strip(), f" {t.strip()}")) for t in targets
    ):
        raise UserError(
            f"task {task.task_name!r}: every target, such as {targets[0]!r}, is empty or has white "
            "space around it, which answers lack; correct doc_to_target (in YAML, a text after | "
            "ends with a line break)"
        )


def _odd(target: Any, task: ConfigurableTask, doc: Doc) -> str | None:
    """Return what is wrong with a target, and what to do."""
    if task.OUTPUT_TYPE == "loglikelihood":
        is_text = isinstance(target, str)
        advice = 'write doc_to_target as a template, such as "{{answer}}"'
        return None if is_text else f"is no text; {advice}"
    if not isinstance(target, list):
        if not isinstance(target, str | int | float):
            return "is neither a text nor a number"
        what = "is no list of right answers, as that of item 0 is; make all of them lists"
        return what if task.multiple_target else None
    template = task.config.doc_to_target
    # lm-eval reads a template's text in brackets as a list, but not that of a plain column.
    is_one_text = isinstance(template, str) and apply_template(template, doc) in doc.values()
    if is_one_text or not target or not all(isinstance(text, str) for text in target):
        return (
            "would be a list of texts of which each is right; for one text in brackets, make "
            "doc_to_target the plain name of its column"
        )
    what = "is a list of right answers, and that of item 0 is none; make all of them lists"
    return None if task.multiple_target else what


def _check_what_is_ignored(task: ConfigurableTask, targets: Sequence[Any]) -> None:
    """Refuse a target of which exact_match ignores everything, so that an empty answer is right."""
    exact_match = exact_match_of(task)
    if exact_match is None:
        return
    for index, target in enumerate(targets):
        if isinstance(target, list) or not str(target).strip():
            continue
        try:
            score = exact_match(references=[str(target)], predictions=[""])
        except Exception:  # wrong options are reported when the task is planned
            return
        if score["exact_match"]:
            options = ", ".join(exact_match.keywords)
            raise UserError(
                f"{where_is(task, index)}: exact_match ignores all of its target {target!r} "
                f"({options}), so that other answers would be right; correct metric_list"
            )
