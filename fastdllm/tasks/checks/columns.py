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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from lm_eval.api.task import ConfigurableTask, Task

from fastdllm.common.errors import UserError
from fastdllm.tasks.checks.inspection import (
    Doc,
    Methods,
    Tell,
    is_local,
    mapped,
    printed_part,
    printing,
    scores_itself,
    where_is,
)
from fastdllm.tasks.local_data import number_of

# A column in a template that int or float converts without a default.
_CONVERTED = re.compile(r"\b(\w+)\s*\|\s*(?:int|float)\b(?!\()")
_WHOLE = re.compile(r"-?\d+\.0")
# A column that more of the items leave empty is meant to be.
_MOST_GAPS = 0.1


def check_columns(task: Task, tell: Tell) -> None:
    """Refuse columns of local data of which a template prints or takes something else.

    Targets that may be meant otherwise are only named.
    """
    if isinstance(task, ConfigurableTask) and is_local(task):
        _Columns(task, tell).check()


class _Columns:
    """The columns of a task's items, and the methods that print them."""

    def __init__(self, task: ConfigurableTask, tell: Tell) -> None:
        self.task, self.tell, self.methods = task, tell, printing(task)
        self.docs: list[Doc] = list(task.eval_docs)
        self.is_csv = task.config.dataset_path == "csv"
        is_label = task.config.doc_to_choice is not None and callable(task.config.doc_to_target)
        # What scores the items itself knows what the target is, and labels were read already.
        if is_label or (scores_itself(task) and not task.config.num_fewshot):
            del self.methods["doc_to_target"]

    def check(self) -> None:
        for column in dict.fromkeys(column for doc in self.docs for column in doc):
            values = [doc.get(column) for doc in self.docs]
            self._check_whole_numbers(column, values)
            self._check_lists(column, values)
            self._name_gaps(column, values)
        self._check_conversions()
        self._name_letters(self.docs[0])
        if self.is_csv:
            self._check_texts()
        if self.task.OUTPUT_TYPE == "generate_until" and "doc_to_target" in self.methods:
            self._check_targets()

    def _check_whole_numbers(self, column: str, values: Sequence[Any]) -> None:
        """Refuse 93.0 in print where all are such, or process_docs gives it and no file has it.

        Pandas, NumPy and `datasets` make it of 93 for a fraction or a missing value beside it.
        Where most targets are such, they are only named: these may be fractions.
        """
        leaves = list(_leaves(list(values)))
        numbers = [n for n in leaves if isinstance(n, int | float) and not math.isnan(n)]
        of_whole = [n for n in numbers if isinstance(n, float) and n.is_integer()]
        whole, methods, is_refused = set(of_whole), self.methods, True
        if not whole:
            return
        made = self.task.config.process_docs is not None and whole - self._floats(column)
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

        for index, doc in enumerate(self.docs):
            parts = [n for n in _leaves(doc.get(column)) if isinstance(n, float) and n in whole]
            for name, method in methods.items() if parts else ():
                other = {**doc, column: mapped(doc[column], meant)}
                part = printed_part(self.task, method, doc, other, parts)
                if part is None:
                    continue
                found = parts[part]
                line = (
                    f"{where_is(self.task, index)}: column {column!r} has {found}, which {why}, "
                    f"and {name} prints it; write {int(found)} in the data, or say in the template "
                    f"what is meant: {{{{ {column}|int }}}} or {{{{ '%.1f'|format({column}) }}}}"
                )
                if is_refused:
                    raise UserError(line)
                self.tell(line)
                return

    def _floats(self, column: str) -> set[float]:
        """Return the fractions in a column of the data, or in all columns if it has no such."""
        rows = (row for split in self.task.dataset.values() for row in split)
        leaves = (leaf for row in rows for leaf in _leaves(row.get(column, row)))
        return {leaf for leaf in leaves if isinstance(leaf, float)}

    def _check_lists(self, column: str, values: Sequence[Any]) -> None:
        """Refuse texts of which a template takes the letters for the parts of a list."""
        texts = {index: value for index, value in enumerate(values) if isinstance(value, str)}
        lists = {index: _list_of(text) for index, text in texts.items()}
        if None in lists.values() and not any(isinstance(value, list | dict) for value in values):
            return
        for index, text in texts.items():
            meant = lists[index]
            if meant is None:  # beside lists
                meant = _written([text], text)
            name = _differs(self.methods, self.docs[index], {column: meant})
            if name is not None:
                raise UserError(
                    f"{where_is(self.task, index)}: column {column!r} is the text {text[:60]!r}, "
                    f"and {name} takes its letters for the parts of a list; write lists, in JSON "
                    "lines"
                )

    def _name_gaps(self, column: str, values: Sequence[Any]) -> None:
        """Name texts that few items lack, and parts of a list that are not shown as others are."""
        full = list(map(_filled, values))
        gaps = [
            i for i, (value, other) in enumerate(zip(values, full, strict=True)) if value != other
        ]
        if len(gaps) <= _MOST_GAPS * len(values):
            gaps = [i for i in gaps if _differs(self.methods, self.docs[i], {column: full[i]})]
            if gaps:
                more = f"; so are {len(gaps) - 1} more items" * (len(gaps) > 1)
                place = where_is(self.task, gaps[0])
                self.tell(f"{place}: a text in column {column!r} is empty{more}")
        sizes = Counter(len(value) for value in values if isinstance(value, list))
        usual = max(sizes, key=sizes.__getitem__, default=0)
        for index, value in enumerate(values):
            if not isinstance(value, list) or len(value) <= usual:
                continue
            is_rest_shown, is_usual_shown = (
                _differs(self.methods, self.docs[index], {column: other})
                for other in (value[:usual], [*value[: usual - 1], "?"])
            )
            if is_usual_shown and not is_rest_shown:
                self.tell(
                    f"{where_is(self.task, index)}: column {column!r} has {len(value)} values, of "
                    f"which only {usual} are shown, as many as other items have"
                )

    def _check_conversions(self) -> None:
        """Refuse texts that a template makes 0, as `int` and `float` do without a default."""
        for name, method in self.methods.items():
            for column in _CONVERTED.findall(str(getattr(self.task.config, name, None))):
                for index, doc in enumerate(self.docs):
                    text = doc.get(column)
                    if not isinstance(text, str) or _is_number(text):
                        continue
                    others, numbers = (
                        [_differs({name: method}, doc, {column: other}) for other in tried]
                        for tried in (("?", "text"), ("1", "7"))
                    )
                    if any(numbers) and not any(others):
                        raise UserError(
                            f"{where_is(self.task, index)}: column {column!r} is {text[:60]!r}, of "
                            f"which int or float in {name} makes 0; correct the data, or give the "
                            "value to take instead: int(0)"
                        )

    def _name_letters(self, doc: Doc) -> None:
        """Name a text of which a template takes each letter, as `join` does of a list meant."""
        for name, method in self.methods.items():
            if not isinstance(getattr(self.task.config, name, None), str):
                continue  # a helper may well look at letters
            for column in (column for column, value in doc.items() if isinstance(value, str)):
                try:
                    method({**doc, column: _OneText(doc[column])})
                except _LetterTaken:
                    self.tell(
                        f"{where_is(self.task, 0)}: {name} takes each letter of the text in column "
                        f"{column!r}, {doc[column][:60]!r}; if a list is meant, write one in the "
                        "data"
                    )
                except Exception:  # a template that fails is reported when the task is planned
                    continue

    def _check_targets(self) -> None:
        """Refuse a target of CSV that is an empty cell; name targets that all end with .0."""
        targets = [str(self.task.doc_to_target(doc)) for doc in self.docs]
        for index, (doc, target) in enumerate(zip(self.docs, targets, strict=True)):
            if self.is_csv and not target.strip() and "" in doc.values():
                raise UserError(
                    f"{where_is(self.task, index)}: its target is empty, as a cell is; complete "
                    "the data, or leave the item out (where no answer is right, write the data as "
                    "JSON lines)"
                )
        if all(map(_WHOLE.fullmatch, targets)):
            self.tell(
                f"task {self.task.task_name!r}: every target, such as {targets[0]!r}, is a whole "
                "number with .0, as division gives it; if it is meant without, write {{ ...|int }}"
            )

    def _check_texts(self) -> None:
        """Refuse numbers that are texts, as others beside them are, if a template takes them so."""
        of_data = {column for split in self.task.dataset.values() for column in split.column_names}
        for index, doc in enumerate(self.docs):
            texts = {c: doc[c] for c in of_data & doc.keys() if isinstance(doc[c], str)}
            numbers = {column: number_of(text) for column, text in texts.items()}
            meant = {column: number for column, number in numbers.items() if number is not None}
            name = _differs(self.methods, doc, meant) if meant else None
            if name is not None:
                columns = ", ".join(map(repr, meant))
                raise UserError(
                    f"{where_is(self.task, index)}: {name} would give something else if column "
                    f"{columns} held numbers, which are texts here, since not all values of the "
                    "column are numbers; complete the column, or say in the template what is "
                    "meant: {{ column|int(0) }} or {{ column|string }}"
                )


def _filled(value: Any) -> Any:
    """Return a value with a text in each place where it has an empty one."""
    if isinstance(value, list):
        return [_filled(inner) for inner in value]
    return "?" if isinstance(value, str) and not value.strip() else value


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


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


def _written(value: list[Any] | dict[str, Any], text: str) -> _List | _Dict:
    found = _List(value) if isinstance(value, list) else _Dict(value)
    found.text = text
    return found


def _list_of(text: str) -> _List | _Dict | None:
    """Return the list or object that a text writes, in JSON or in Python; None for other texts."""
    if text.strip()[:1] not in ("[", "{"):
        return None
    for parse in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            value = parse(text.strip())
            if isinstance(value, list | dict):
                return _written(value, text)
    return None
