"""The four options of each GPQA question, in an order of their own."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from datasets import Dataset

QUESTION, RIGHT = "Question", "Correct Answer"
WRONG = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
# With it the order is the one that lm-eval draws first.
SEED = 42


def with_options(rows: Dataset) -> Dataset:
    """Return the questions with their options in order: `choice1` to `choice4` and `answer`.

    The generator is made here, for each call: the order is the same whenever, wherever and however
    often the items are read. lm-eval reads them once to ask and once more to score.

    Raises:
        KeyError: a column is missing.
        ValueError: a cell is empty.
    """
    generator = random.Random(SEED)
    # Row 1 has the names of the columns.
    return Dataset.from_list([_item(row, generator, n) for n, row in enumerate(rows, start=2)])


def _item(row: Mapping[str, Any], generator: random.Random, number: int) -> dict[str, str]:
    # A column of numbers holds no texts, but prints as in the file.
    texts = {column: str(row[column]) for column in (QUESTION, RIGHT, *WRONG)}
    for column, text in texts.items():
        if not text.strip():
            raise ValueError(f"row {number}: column {column!r} is empty")
    right, *wrong = (_cleaned(texts[column]) for column in (RIGHT, *WRONG))
    options = [*wrong, right]
    generator.shuffle(options)
    item = {f"choice{n}": option for n, option in enumerate(options, start=1)}
    return {QUESTION: texts[QUESTION], **item, "answer": f"({'ABCD'[options.index(right)]})"}


def _cleaned(text: str) -> str:
    """Clean an option as lm-eval does."""
    return text.strip().replace(" [title]", ". ").replace("  ", " ")
