"""Run answers of humaneval in the sandbox, with the tests of their items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tasks.code_answers import judged, program
from tasks.code_statements import Statement, statements_of


def judge(
    answers: Iterable[Sequence[str]], docs: Sequence[Mapping[str, Any]]
) -> list[list[dict[str, Any]]]:
    """Return, of each answer, its code and whether that passes the tests."""
    codes = [
        [program_of(text, doc) for text in texts] for texts, doc in zip(answers, docs, strict=True)
    ]
    return judged(codes, (tests(doc) for doc in docs))


def tests(doc: Mapping[str, Any]) -> str:
    """Return the tests of an item, which are run after its code.

    Raises:
        ValueError: the prompt does not begin the function that is tested.
    """
    _before(doc)
    return f"{doc['test']}\ncheck({doc['entry_point']})\n"


def program_of(text: str, doc: Mapping[str, Any]) -> str | None:
    """Return the code of an answer, after what the prompt has before the function.

    These are imports, and functions that the tests use too; an answer need not repeat them.
    """
    return program(text, [doc["entry_point"]], prompt=doc["prompt"], before=_before(doc))


def _before(doc: Mapping[str, Any]) -> list[Statement]:
    before, found, _ = str(doc["prompt"]).partition(f"def {doc['entry_point']}(")
    if not found:
        raise ValueError(f"its prompt does not begin the function {doc['entry_point']!r}")
    return statements_of(before)
