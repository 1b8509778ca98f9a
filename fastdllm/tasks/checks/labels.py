"""What the labels of a choice task mean: the texts of options, their letters, or their numbers.

Decided for all items together: where labels are letters, "B" is the second option also in an item
that has "B" among its options, and a digit among them has no meaning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

from fastdllm.common.errors import UserError
from fastdllm.tasks.checks.inspection import DryRun, is_local

Options = Sequence[str]
# Gives the number, from 0, of the option that a text names; None if it names none.
Way = Callable[[str, Options], int | None]


class LabelReader:
    """Reads labels as those of all items of a task are written.

    A label is an option's text, its number from 0, or its letter (A is 0); `true` and `false` are
    the options True and False, or yes and no, in whatever order.
    """

    def __init__(self, items: Sequence[tuple[Any, Options]]) -> None:
        parts = [(part, options) for label, options in items for part in _parts(label)]
        strange = [p for p, options in parts if isinstance(p, str) and p not in options]
        self._all_may_mark = all(_may_mark(*item) for item in items if isinstance(item[0], list))
        if not strange:
            self._way: Way = _by_text
        else:
            self._way = _by_digits if _by_letter(strange[0], ()) is None else _by_letter

    def number(self, label: Any, options: Options) -> int | list[int]:
        """Return the number of the option that a label names, or of each in a list.

        Of options of one text it is the first, which lm-eval takes for chosen.

        Raises:
            ValueError: it names none, or other labels are written in another way.
        """
        if not isinstance(label, list):
            return self._number(label, options)
        marks = self._all_may_mark and _may_mark(label, options)
        if marks or any(label.count(part) > 1 for part in label):
            raise ValueError(
                f"label {label!r} seems to mark each option; give the numbers of the right ones"
            )
        return [self._number(part, options) for part in label]

    def _number(self, label: Any, options: Options) -> int:
        if isinstance(label, bool):
            found = _of_truth(label, options)
        elif isinstance(label, str):
            found = self._way(label, options)
        else:
            # Also a number of NumPy, which helpers return.
            is_whole = isinstance(label, Real) and float(label).is_integer()
            found = int(float(label)) if is_whole else None
        if found is not None and 0 <= found < len(options):
            return options.index(options[found])
        ways = (_by_text, _by_letter, _by_digits) if isinstance(label, str) else ()
        is_otherwise = any(way(label, options) in range(len(options)) for way in ways)
        raise ValueError(
            f"label {label!r} is none of its {len(options)} options "
            + (
                "in the way of the other labels: let all be texts, all letters, or all numbers"
                if found is None and is_otherwise
                else "(test sets often hide theirs)"
            )
        )


def check_names(run: DryRun) -> None:
    """Refuse labels to which the data gives the names of the options in another order.

    Compares the last word of each; yes and true, no and false are the same. Only named is it in
    published data, which others use as they are, and where options are yes and no.
    """
    task = run.task
    if task.config.doc_to_choice is None:
        return
    column = str(task.config.doc_to_target).strip("{ }")
    feature = getattr(task.eval_docs, "features", {}).get(column)
    names: list[str] = getattr(feature, "names", None) or []
    options = run.printed[0]["doc_to_choice"]
    words, of_options = ([_last_word(text) for text in texts] for texts in (names, options))
    if sorted(words) != sorted(of_options) or words == of_options:
        return
    number = next(i for i, word in enumerate(words) if word != of_options[i])
    line = (
        f"task {task.task_name!r}: the data names the label {number} of column {column!r} "
        f"{names[number]!r}, but doc_to_choice has {options[number]!r} in its place; give the "
        f"options in the order of {', '.join(names)}"
    )
    # Yes and no may answer a question for the opposite.
    if is_local(task) and names[number].lower() in map(str.lower, options):
        raise UserError(line)
    run.tell(line)


def _last_word(text: str) -> str:
    word = (re.findall(r"\w+", text.lower()) or [text])[-1]
    return {"yes": "true", "no": "false"}.get(word, word)


def misread_digit(read: Sequence[tuple[Any, int | list[int], Options]]) -> int | None:
    """Return a label that is taken for a number but is the text of another option, if it is meant.

    It is meant where all labels are such texts, or some are texts that are no digits.

    read: labels with the numbers that a reader gave them, and their options.
    """
    digits = [part for part in read if isinstance(part[0], int) and str(part[0]) in part[2]]
    if len(digits) < len(read) and not any(isinstance(label, str) for label, _, _ in read):
        return None
    wrong = (label for label, number, options in digits if options.index(str(label)) != number)
    return next(wrong, None)


def _may_mark(label: Sequence[Any], options: Options) -> bool:
    """Whether a list may say of each option if it is right: [0, 1] may also be both numbers."""
    return len(label) == len(options) > 1 and all(part in (0, 1) for part in label)


def _parts(label: Any) -> Sequence[Any]:
    return label if isinstance(label, list) else [label]


def _by_text(label: str, options: Options) -> int | None:
    return options.index(label) if label in options else None


def _by_letter(label: str, _: Options) -> int | None:
    text = label.strip()
    is_letter = len(text) == 1 and text.isascii() and text.isalpha()
    return ord(text.upper()) - ord("A") if is_letter else None


def _by_digits(label: str, _: Options) -> int | None:
    return int(label) if label.strip().isdecimal() else None


def _of_truth(label: bool, options: Options) -> int | None:
    if str(label) in options:
        return options.index(str(label))
    texts = [option.strip().lower() for option in options]
    for pair in (("no", "yes"), ("false", "true")):
        if sorted(texts) == list(pair):
            return texts.index(pair[label])
    return None
