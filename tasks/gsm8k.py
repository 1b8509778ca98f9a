r"""Score answers of gsm8k: by the number in the last \boxed{...}, and as lm-eval's own task does.

The filter last-box gives process_results what it read, the filter flexible-extract a text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from lm_eval.api.metrics import exact_match_hf_evaluate

from tasks.boxed import NUMBER, WORDS, last_box, plain, value

# Options of exact_match in lm-eval's gsm8k.
_OF_LM_EVAL = {"ignore_case": True, "regexes_to_ignore": [",", "\\$", "(?s).*#### ", "\\.$"]}
_TARGET = re.compile(r"#### *(-?[\d,]*\d(?:\.\d+)?) *$")
_DROPPED = re.compile(
    r"\\(?:pounds|euro|yen|cents?|degree|l?dots|textdollar)(?![A-Za-z])|\\[$%#&]|[$€£¥¢%°]"
)
# In a = 20, b = 18: there are two answers.
_ANOTHER = re.compile(r"[,;]|(?<![A-Za-z])(?:and|or)(?![A-Za-z])")
# Exponents of units and degrees, endings of ordinals, indices, and the minutes of a full hour.
_RAISED = re.compile(
    r"(?<=[A-Za-z;])\s*\^\s*(?:\{[^{}]*\}|\w)"
    r"|\^\s*(?:\{\s*(?:\\circ|;|st|nd|rd|th)\s*\}|\\circ(?![A-Za-z])|;)"
    r"|_\s*(?:\{[^{}]*\}|\w)|(?<=\d):00(?!\d)"
)
# No argument of a command.
_BRACED = re.compile(r"(?<![A-Za-z^_}\\])\{([^{}]*)\}")
# A command such as \sqrt, and a letter that names a variable and no unit, make a number another.
_MORE_THAN_A_NUMBER = re.compile(r"\\|[\^√π<>≤≥]|(?<![A-Za-z])[nxyz](?![A-Za-z])")
_THOUSANDS = re.compile(r"(?<=\d)\s*[kK](?![A-Za-z])")
_MULTIPLES = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}


def read_boxes(
    answers: Iterable[Sequence[str]], _docs: Sequence[Mapping[str, Any]]
) -> list[list[dict[str, Any]]]:
    """Return the last box of each answer, and the numbers that it may mean."""
    return [[_read(text) for text in texts] for texts in answers]


def score(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
    """Score one answer as its filter has read it."""
    (read,) = results
    if isinstance(read, str):
        right = exact_match_hf_evaluate([read], [doc["answer"].strip()], **_OF_LM_EVAL)
        return {"exact_match": float(right["exact_match"])}
    is_right = str(target_number(doc)) in read["numbers"]
    return {"exact_match": float(is_right), "boxed": float(read["box"] is not None)}


def target(doc: Mapping[str, Any]) -> str:
    """Return the answer of an item as the data has it.

    Raises:
        ValueError: no number stands at its end.
    """
    target_number(doc)
    return doc["answer"]


def target_number(doc: Mapping[str, Any]) -> Fraction:
    """Return the number at the end of an item's answer.

    Raises:
        ValueError: there is none.
    """
    answer = doc["answer"]
    found = _TARGET.search(answer) if isinstance(answer, str) else None
    if found is None:
        raise ValueError(f"its answer {answer!r} does not end with '#### <number>'")
    return Fraction(found[1].replace(",", ""))


def _read(text: str) -> dict[str, Any]:
    box = last_box(text)
    return {"box": box, "numbers": [str(number) for number in numbers_in(box or "")]}


def numbers_in(box: str) -> list[Fraction]:
    """Return the number that a box gives, if it is one; 18 million may mean 18 as well."""
    *before, text = re.split(r"=|\\approx|≈", plain(box))
    if any(map(_ANOTHER.search, before[1:])):
        return []
    # Words may hold numbers ("18 eggs of 2 ducks"), which count only where no other number is.
    outside = _unwrapped(text, keeps_words=False)
    if not re.search(r"\d", outside):
        outside = _unwrapped(text, keeps_words=True)
    outside = re.sub(r"[{}]", "", outside)
    # One number, which may be there twice.
    found = {value(number) for number in NUMBER.finditer(outside)}
    number = found.pop() if len(found) == 1 else None
    if number is None or _MORE_THAN_A_NUMBER.search(outside):
        return []
    in_words = _THOUSANDS.sub(" thousand", box).lower()
    words = re.findall("|".join(_MULTIPLES), in_words)
    return [number, *(number * _MULTIPLES[word] for word in words[:1])]


def _unwrapped(text: str, *, keeps_words: bool) -> str:
    r"""Return a text without \text{...}, exponents and the like; words stay, or become semicolons.

    What \text holds but no words, as a sign, stays.
    """

    def replaced(found: re.Match[str]) -> str:
        is_kept = keeps_words or not re.search(r"\w", found[1])
        return found[1] if is_kept else ";"

    before = None
    while before != text:
        before = text
        text = _RAISED.sub("", _DROPPED.sub("", WORDS.sub(replaced, text)))
        text = _BRACED.sub(r"\1", text)
    return text
