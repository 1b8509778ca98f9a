"""Score answers of multi_step_problems: by the number at the end, and by the steps on the way.

The filter final-number gives `score` a text, the filter calculations a list.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

CALCULATION = re.compile(r"\d+[-+*]\d+=\d+")


def read_calculations(
    answers: Iterable[Sequence[str]], _docs: Sequence[Mapping[str, Any]]
) -> list[list[list[str]]]:
    """Return the calculations of each answer, such as 52+27=79."""
    return [[CALCULATION.findall(text) for text in texts] for texts in answers]


def score(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
    """Score one answer as its filter has read it."""
    (read,) = results
    if isinstance(read, str):
        return {"exact_match": float(read == str(doc["result"]))}
    return {"steps_right": steps_right(doc["answer"], read)}


def steps_right(reference: str, calculations: Sequence[str]) -> float:
    """Return the share of calculations that the reference has too, whose are all right.

    Of those in the answer or of those in the reference, whichever are more: it pays neither to
    leave out a step nor to add one. The same calculation counts as often as the reference has it.
    """
    wanted, given = Counter(CALCULATION.findall(reference)), Counter(calculations)
    return (wanted & given).total() / max(wanted.total(), given.total())
