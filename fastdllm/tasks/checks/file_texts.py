"""Texts in the file of a task that lm-eval would ask or compare otherwise than they are meant.

lm-eval fills in templates in some places only, and YAML makes a line break of a backslash and an n
in double quotes only. The model would see what is left, or a text would never be found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jinja2 import TemplateSyntaxError
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.utils import env

from fastdllm.common.errors import UserError, nearest_name
from fastdllm.tasks.checks.inspection import MARK, Doc, mapped, where_is

_TEMPLATES = ("doc_to_text", "doc_to_target", "doc_to_choice", "description", "gen_prefix")
_NO_TEMPLATES = ("target_delimiter", "fewshot_delimiter")
_EXPRESSION = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
# The arguments of LaTeX come first, so that \boxed{answer} and x_{answer} name no column.
_IN_BRACES = re.compile(r"\\[A-Za-z]+(?:\{[^{}]*\})*|[_^]\{[^{}]*\}|\$?\{(\w+)\}")
# Not \nabla, \neq or \nu.
_LINE_BREAK = re.compile(r"\\n(?![a-z])")
# In single quotes or plain YAML, two backslashes stay two. Not \\dfrac, \\boxed or \\sqrt of LaTeX.
_DOUBLED = re.compile(r"(?<!\\)(?:\\\\)+[dDsSwWbB](?![A-Za-z])")
# What \b and \f become in double quotes. A tab and the ends of lines are meant so.
_UNPRINTED = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
# As repr writes what \a, \b, \v and \f become; repr itself writes none of these four.
_CONTROL = (r"\x07", r"\x08", r"\x0b", r"\x0c")


def check_texts(task: Task) -> None:
    """Refuse misspelt columns, templates where lm-eval reads none, and escapes that stay text."""
    if not isinstance(task, ConfigurableTask):
        return  # a task written in Python makes its texts itself
    _check_columns(task)
    doc = next(iter(task.eval_docs))
    for key, text, is_template in _texts(task, doc):
        _check_text(f"task {task.task_name!r}: {key}", text, is_template, doc)
    for key, pattern in _patterns(task):
        _check_pattern(f"task {task.task_name!r}: {key}", pattern)
    _check_columns_as_options(task, doc)
    _check_lists(task)


def _check_columns(task: ConfigurableTask) -> None:
    """Refuse a plain name that is not a column: lm-eval would take it as the text of every item."""
    columns, choices = task.features, task.config.doc_to_choice
    keys = ("doc_to_text", "doc_to_target", "gen_prefix")
    names = {key: getattr(task.config, key) for key in (*keys, "description")}
    names |= {f"fewshot_config.{key}": getattr(task.fewshot_cfg, key) for key in keys}
    for key, name in names.items():
        if not isinstance(name, str) or "{" in name or name in columns:
            continue
        if isinstance(choices, list) and name in choices:
            continue  # the same option is right for all items
        nearest = nearest_name(name, columns)
        oddities = (not nearest, not name.isidentifier())
        if any(oddities) if key.endswith(("gen_prefix", "description")) else all(oddities):
            continue  # of several words, or as those before an answer
        raise UserError(
            f"task {task.task_name!r}: {key} {name!r} is no column of its data; "
            + (f"did you mean {nearest!r}? " if nearest else "")
            + f"columns: {', '.join(columns)} (a fixed text is written as \"{{{{ '{name}' }}}}\")"
        )


def _texts(task: ConfigurableTask, columns: Doc) -> Iterator[tuple[str, str, bool]]:
    """Yield the texts of a task but for names of columns: key, text, and whether it is a template.

    Of a list of texts lm-eval takes none for a template.
    """
    for prefix, part in (("", task.config), ("fewshot_config.", task.fewshot_cfg)):
        for key in (*_TEMPLATES, *_NO_TEMPLATES):
            value = getattr(part, key, None)
            if prefix and value == getattr(task.config, key):
                continue
            for text in _listed(value):
                if isinstance(text, str) and text not in columns:
                    yield prefix + key, text, key in _TEMPLATES and text is value
    for text in _listed((task.config.generation_kwargs or {}).get("until")):
        if isinstance(text, str):
            yield "generation_kwargs.until", text, False


def _patterns(task: ConfigurableTask) -> Iterator[tuple[str, str]]:
    """Yield the regular expressions of filters and metrics, each with its key."""
    filters = [part for entry in task.config.filter_list or () for part in entry["filter"]]
    for key, entries in (("filter_list", filters), ("metric_list", task.config.metric_list or ())):
        for entry in entries:
            for name, value in entry.items():
                if "regex" in str(name) or "pattern" in str(name):
                    yield from ((f"{key}: {name}", text) for text in _within(value))


def _within(patterns: Any) -> Iterator[str]:
    if isinstance(patterns, str):
        yield patterns
    elif isinstance(patterns, Mapping | list):
        for inner in patterns:  # of a mapping the keys are patterns
            yield from _within(inner)


def _check_pattern(where: str, pattern: str) -> None:
    """Refuse a regular expression that finds nothing, as YAML reads it otherwise than is meant."""
    if _UNPRINTED.search(pattern):
        raise UserError(
            f"{where}: {pattern!r} holds a control character, which YAML makes of a backslash and "
            "a letter in double quotes; write the pattern in single quotes"
        )
    if found := _DOUBLED.search(pattern):
        raise UserError(
            f"{where}: {pattern} looks for a backslash before {found[0][-1]}, since YAML makes one "
            f"of two in double quotes only; write \\{found[0][-1]} (for the backslash itself: "
            "[\\\\])"
        )


def _listed(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return value if isinstance(value, list) else [value]


def _check_text(where: str, text: str, is_template: bool, columns: Doc) -> None:
    is_list = where.endswith(("doc_to_choice", "doc_to_target")) and not is_template
    if not is_template and _EXPRESSION.search(text):
        advice = 'one template of the list, such as "{{[a, b]}}"' if is_list else "the text itself"
        raise UserError(
            f"{where}: lm-eval fills in no template here, and would take {text!r} as it stands; "
            f"write {advice}"
        )
    plain = _outside_expressions(text) if is_template else text
    if is_template or is_list:
        for match in _IN_BRACES.finditer(plain):
            if match[1] in columns:
                raise UserError(
                    f"{where}: {match[0]} would stay as it is, and not become the column; write "
                    f"{{{{{match[1]}}}}} (for the braces themselves: {{{{ '{match[0]}' }}}})"
                )
    # lm-eval reads a text in brackets as Python, with its escapes.
    if _LINE_BREAK.search(plain) and not is_list and not (is_template and text.startswith("[")):
        raise UserError(
            f"{where}: holds a backslash and an n, which is no line break; write it in double "
            "quotes" + (r" (for the two characters themselves: {{ '\\n' }})" if is_template else "")
        )


def _outside_expressions(template: str) -> str:
    try:
        tokens = list(env.lex(template))
    except TemplateSyntaxError:  # reported when the task is planned
        return ""
    # What stands on either side of an expression is not joined.
    return "\0".join(text for _, kind, text in tokens if kind == "data")


def _check_columns_as_options(task: ConfigurableTask, doc: Doc) -> None:
    """Refuse a list of columns as options, of which the names would be compared.

    Options such as A and B, whose texts the question shows, may be columns as well.
    """
    names = _listed(task.config.doc_to_choice)
    if names == [task.config.doc_to_choice] or not all(
        isinstance(name, str) and isinstance(doc.get(name), str) for name in names
    ):
        return
    asked = str(task.doc_to_text(doc))
    if any(doc[name].strip() not in asked for name in names):
        raise UserError(
            f"task {task.task_name!r}: doc_to_choice: lm-eval would compare the names of the "
            f'columns {", ".join(names)}, not their texts; write "{{{{[{", ".join(names)}]}}}}" '
            f'(for the names themselves: "{{{{{names}}}}}")'
        )


def _check_lists(task: ConfigurableTask) -> None:
    r"""Refuse a template of a list that takes a backslash in the data for an escape.

    Of \frac in '{{a}}', lm-eval makes a form feed and "rac"; a character that escapes nothing shows
    what it should be.
    """
    methods: list[tuple[str, Callable[[Any], Any]]] = [
        (key, getattr(task, key))
        for key in ("doc_to_choice", "doc_to_target")
        # A template with backslashes may treat those of the data itself.
        if isinstance(template := getattr(task.config, key), str) and "\\" not in template
    ]
    for index, doc in enumerate(task.eval_docs if methods else ()):
        if "\\\\" not in repr(doc):  # one backslash of the data; a line break is written with one
            continue
        marked = _replaced(doc, "\\", MARK)
        for key, method in methods:
            given, meant = _list(method, doc), _list(method, marked)
            where = f"{where_is(task, index)}: {key} gives {given!r}: lm-eval takes a backslash in "
            if given and meant and given != _replaced(meant, MARK, "\\"):
                raise UserError(
                    f'{where}the data for an escape; write the template as "{{{{[a, b]}}}}", '
                    "without quotes around the columns"
                )
            if any(code in repr(given) and code not in repr(doc) for code in _CONTROL):
                raise UserError(f"{where}a list in the data for an escape; double it there")


def _replaced(value: Any, old: str, new: str) -> Any:
    def changed(part: Any) -> Any:
        # A list written as text has escapes of its own.
        if not isinstance(part, str) or part.lstrip().startswith(("['", '["')):
            return part
        return part.replace(old, new)

    return mapped(value, changed)


def _list(method: Callable[[Any], Any], doc: Doc) -> list[Any] | None:
    try:
        given = method(doc)
    except Exception:  # a template that fails is reported when the items are checked
        return None
    return given if isinstance(given, list) else None
