"""Columns of local data that a template takes for something else than their author meant.

93 that became 93.0 on its way into a file or through `process_docs`, a list that CSV holds as text,
and numbers that are texts because of one value beside them. What tells is that the template gives
another text for the value as it was meant.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lm_eval.api.task import ConfigurableTask, Task

from fastdllm.common.errors import UserError
from fastdllm.tasks.checks.items import is_local, scores_itself, where_is
from fastdllm.tasks.checks.printing import mapped, printed_part, printing
from fastdllm.tasks.local_data import number_of

# A column in a template that int or float converts without a default.
_CONVERTED = re.compile(r"\b(\w+)\s*\|\s*(?:int|float)\b(?!\()")
_WHOLE = re.compile(r"-?\d+\.0")
# A column that more of the items leave empty is meant to be.
MOST_GAPS = 0.1
Doc = Mapping[str, Any]
Methods = Mapping[str, Callable[[Doc], Any]]


def check_columns(task: Task, tell: Callable[[str], None]) -> None:
    """Refuse columns of local data of which a template prints or takes something else.

    tell: is given a line about targets that may be meant otherwise.

    Raises:
        UserError: naming the first item and the column.
    """
    if not isinstance(task, ConfigurableTask) or not is_local(task):
        return
    docs: list[Doc] = list(task.eval_docs)
    methods = {name: method for name, method in printing(task).items() if method is not None}
    is_label = task.config.doc_to_choice is not None and callable(task.config.doc_to_target)
    # What scores the items itself knows what the target is, and labels were read already.
    if is_label or (scores_itself(task) and not task.config.num_fewshot):
        del methods["doc_to_target"]
    for column in dict.fromkeys(column for doc in docs for column in doc):
        values = [doc.get(column) for doc in docs]
        _check_whole_numbers(task, methods, docs, column, values, tell)
        _check_lists(task, methods, docs, column, values)
        _name_gaps(task, methods, docs, column, values, tell)
    _check_conversions(task, methods, docs)
    _check_letters(task, methods, docs[0], tell)
    if task.config.dataset_path == "csv":
        _check_texts(task, methods, docs)
    if task.OUTPUT_TYPE == "generate_until" and "doc_to_target" in methods:
        _check_targets(task, docs, tell)


def _check_whole_numbers(
    task: ConfigurableTask,
    methods: Methods,
    docs: Sequence[Doc],
    column: str,
    values: Sequence[Any],
    tell: Callable[[str], None],
) -> None:
    """Refuse 93.0 in print where all are such, or where process_docs gives it and no file has it.

    Pandas, NumPy and `datasets` make it of 93 for a fraction or a missing value beside it. Where
    most targets are such, they are only named: these may be fractions.
    """
    numbers = [n for n in _leaves(list(values)) if isinstance(n, int | float) and not math.isnan(n)]
    of_whole = [n for n in numbers if isinstance(n, float) and n.is_integer()]
    whole, is_refused = set(of_whole), True
    if not whole:
        return
    made = task.config.process_docs is not None and whole - _floats(task, column)
    if len(of_whole) == len(numbers):
        why = "is whole like all numbers there"
    elif made:
        whole, why = made, "stands so in no file, but comes from process_docs"
    elif 2 * len(of_whole) > len(numbers) and "doc_to_target" in methods:
        methods = {"doc_to_target": methods["doc_to_target"]}
        is_refused, why = False, "is whole like most numbers there"
    else:
        return

    def meant(value: Any) -> Any:
        return int(value) if isinstance(value, float) and value in whole else value

    for index, doc in enumerate(docs):
        parts = [n for n in _leaves(doc.get(column)) if isinstance(n, float) and n in whole]
        for name, method in methods.items() if parts else ():
            other = {**doc, column: mapped(doc[column], meant)}
            part = printed_part(task, method, doc, other, parts)
            if part is None:
                continue
            found = parts[part]
            line = (
                f"{where_is(task, index)}: column {column!r} has {found}, which {why}, and {name} "
                f"prints it; write {int(found)} in the data, or say in the template what is meant: "
                f"{{{{ {column}|int }}}} or {{{{ '%.1f'|format({column}) }}}}"
            )
            if is_refused:
                raise UserError(line)
            tell(line)
            return


def _floats(task: ConfigurableTask, column: str) -> set[float]:
    """Return the fractions in a column of the data, or in all of them if it has no such column."""
    rows = (row for split in task.dataset.values() for row in split)
    leaves = (leaf for row in rows for leaf in _leaves(row.get(column, row)))
    return {leaf for leaf in leaves if isinstance(leaf, float)}


def _check_lists(
    task: Task,
    methods: Methods,
    docs: Sequence[Doc],
    column: str,
    values: Sequence[Any],
) -> None:
    """Refuse texts of which a template takes the letters for the parts of a list."""
    texts = [value for value in values if isinstance(value, str)]
    has_lists = any(isinstance(value, list | dict) for value in values)
    if not texts or not (has_lists or all(_list_of(text) is not None for text in texts)):
        return
    for index, doc in enumerate(docs):
        text = doc.get(column)
        if not isinstance(text, str):
            continue
        meant = _list_of(text)
        if meant is None:  # beside lists
            meant = _List([text])
            meant.text = text
        name = _differs(methods, doc, {column: meant})
        if name is not None:
            raise UserError(
                f"{where_is(task, index)}: column {column!r} is the text {text[:60]!r}, and {name} "
                "takes its letters for the parts of a list; write lists, in JSON lines"
            )


def _name_gaps(
    task: Task,
    methods: Methods,
    docs: Sequence[Doc],
    column: str,
    values: Sequence[Any],
    tell: Callable[[str], None],
) -> None:
    """Name texts that few items lack, and parts of a list that are not shown, unlike others'."""
    full = {index: _filled(value) for index, value in enumerate(values)}
    gaps = [index for index, value in full.items() if value != values[index]]
    if len(gaps) <= MOST_GAPS * len(docs):
        gaps = [i for i in gaps if _differs(methods, docs[i], {column: full[i]}) is not None]
        if gaps:
            more = f"; so are {len(gaps) - 1} more items" * (len(gaps) > 1)
            tell(f"{where_is(task, gaps[0])}: a text in column {column!r} is empty{more}")
    sizes = Counter(len(value) for value in values if isinstance(value, list))
    usual = max(sizes, key=sizes.__getitem__, default=0)
    for index, value in enumerate(values):
        if not isinstance(value, list) or len(value) <= usual:
            continue
        last_usual = [*value[: usual - 1], "?"]
        is_rest_shown, is_usual_shown = (
            _differs(methods, docs[index], {column: other}) for other in (value[:usual], last_usual)
        )
        if is_usual_shown and not is_rest_shown:
            tell(
                f"{where_is(task, index)}: column {column!r} has {len(value)} values, of which "
                f"only {usual} are shown, as many as other items have"
            )


def _filled(value: Any) -> Any:
    """Return a value with a text in each place where it has an empty one."""
    if isinstance(value, list):
        return [_filled(inner) for inner in value]
    return "?" if isinstance(value, str) and not value.strip() else value


def _check_conversions(task: ConfigurableTask, methods: Methods, docs: Sequence[Doc]) -> None:
    """Refuse texts that a template makes 0, as `int` and `float` do without a default."""
    for name, method in methods.items():
        for column in _CONVERTED.findall(str(getattr(task.config, name, None))):
            for index, doc in enumerate(docs):
                text = doc.get(column)
                if not isinstance(text, str) or _is_number(text):
                    continue
                others, numbers = (
                    [_differs({name: method}, doc, {column: other}) for other in tried]
                    for tried in (("?", "text"), ("1", "7"))
                )
                if any(numbers) and not any(others):
                    raise UserError(
                        f"{where_is(task, index)}: column {column!r} is {text[:60]!r}, of which "
                        f"int or float in {name} makes 0; correct the data, or give the value to "
                        "take instead: int(0)"
                    )


def _check_letters(
    task: ConfigurableTask, methods: Methods, doc: Doc, tell: Callable[[str], None]
) -> None:
    """Name a text of which a template takes each letter, as `join` does where a list is meant."""
    for name, method in methods.items():
        if not isinstance(getattr(task.config, name, None), str):
            continue  # a helper may well look at letters
        for column in (column for column, value in doc.items() if isinstance(value, str)):
            try:
                method({**doc, column: _OneText(doc[column])})
            except _LetterTaken:
                tell(
                    f"{where_is(task, 0)}: {name} takes each letter of the text in column "
                    f"{column!r}, {doc[column][:60]!r}; if a list is meant, write one in the data"
                )
            except Exception:  # a template that fails is reported when the task is planned
                continue


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _check_targets(
    task: ConfigurableTask, docs: Sequence[Doc], tell: Callable[[str], None]
) -> None:
    """Refuse a target of CSV that is an empty cell; name targets that all end with .0."""
    targets = [str(task.doc_to_target(doc)) for doc in docs]
    for index, (doc, target) in enumerate(zip(docs, targets, strict=True)):
        if task.config.dataset_path == "csv" and not target.strip() and "" in doc.values():
            raise UserError(
                f"{where_is(task, index)}: its target is empty, as a cell is; complete the data, "
                "or leave the item out (where no answer is right, write the data as JSON lines)"
            )
    if all(_WHOLE.fullmatch(target) for target in targets):
        tell(
            f"task {task.task_name!r}: every target, such as {targets[0]!r}, is a whole number "
            "with .0, as division gives it; if it is meant without, write {{ ...|int }}"
        )


def _check_texts(task: ConfigurableTask, methods: Methods, docs: Sequence[Doc]) -> None:
    """Refuse numbers that are texts, as others beside them are, and that a template takes so."""
    columns_of_data = {c for split in task.dataset.values() for c in split.column_names}
    for index, doc in enumerate(docs):
        texts = {c: doc[c] for c in columns_of_data & doc.keys() if isinstance(doc[c], str)}
        numbers = {column: number_of(text) for column, text in texts.items()}
        meant = {column: number for column, number in numbers.items() if number is not None}
        name = _differs(methods, doc, meant) if meant else None
        if name is not None:
            columns = ", ".join(map(repr, meant))
            raise UserError(
                f"{where_is(task, index)}: {name} would give something else if column {columns} "
                "held numbers, which are texts here, since not all values of the column are "
                "numbers; complete the column, or say in the template what is meant: "
                "{{ column|int(0) }} or {{ column|string }}"
            )


def _differs(methods: Methods, doc: Doc, meant: Mapping[str, Any]) -> str | None:
    """Return the first method that gives another text, or other options, for values as meant."""
    for name, method in methods.items():
        try:
            given, other = method(doc), method({**doc, **meant})
        except Exception:  # a template that needs the text
            continue
        if [str(part) for part in _leaves(given)] != [str(part) for part in _leaves(other)]:
            return name
    return None


def _leaves(value: Any) -> Iterator[Any]:
    """Yield each value in lists and objects; truths, which are no numbers, as texts."""
    if isinstance(value, Mapping | list) and not isinstance(value, _Written):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(inner)
    else:
        yield str(value) if isinstance(value, bool) else value


class _LetterTaken(Exception):
    pass


class _OneText(str):
    """A text whose letters cannot be taken one by one."""

    __slots__ = ()

    def __iter__(self) -> Iterator[str]:
        raise _LetterTaken


class _Written:
    """What prints as the text that it was read from."""

    text = ""

    def __str__(self) -> str:
        return self.text


class _List(_Written, list[Any]):
    pass


class _Dict(_Written, dict[str, Any]):
    pass


def _list_of(text: str) -> _List | _Dict | None:
    """Return the list or object that a text writes, in JSON or in Python; None for other texts."""
    if text.strip()[:1] not in ("[", "{"):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, list | dict):
            found = _List(value) if isinstance(value, list) else _Dict(value)
            found.text = text
            return found
    return None
