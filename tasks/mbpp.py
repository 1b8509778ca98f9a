"""Run answers of mbpp in the sandbox, with the tests of their items."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tasks.code_answers import judged, program
from tasks.code_statements import names_called

# The test set. Items before are examples; those behind are for validation and training.
FIRST, LAST = 11, 510


def test_items(rows: Any) -> Any:
    """Keep the items of the test set.

    Raises:
        ValueError: there is none.
    """
    items = rows.filter(lambda row: FIRST <= row["task_id"] <= LAST)
    if not len(items):
        raise ValueError(f"its data has no item of the test set, task_id {FIRST} to {LAST}")
    return items


def judge(
    answers: Iterable[Sequence[str]], docs: Sequence[Mapping[str, Any]]
) -> list[list[dict[str, Any]]]:
    """Return, of each answer, its code and whether that passes the tests."""
    codes = [
        [program(text, asked(doc)) for text in texts]
        for texts, doc in zip(answers, docs, strict=True)
    ]
    return judged(codes, (tests(doc) for doc in docs))


def tests(doc: Mapping[str, Any]) -> str:
    """Return the tests of an item, which are run after its code.

    Raises:
        ValueError: they are none that call a function.
    """
    asked(doc)
    return "\n".join([doc["test_setup_code"], *doc["test_list"], ""])


def asked(doc: Mapping[str, Any]) -> list[str]:
    """Return the function that an item asks for, then what else its tests take from an answer.

    A function may have the name of one of Python's own, as `sum` of item 126.
    """
    called = names_called("\n".join(doc["test_list"]))
    if not called:
        raise ValueError(f"its test_list calls no function: {doc['test_list']!r}")
    asked = [name for name in called if not hasattr(builtins, name)] or called
    return list(dict.fromkeys([asked[0], *called, *names_called(doc["test_setup_code"])]))
