r"""Score answers of minerva_math: what the last \boxed{...} holds against that of the solution."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import math_verify  # noqa: F401 (so that planning names it if it is not installed)

from tasks.boxed import NUMBER, STYLE, UNIT, WORDS, last_box, plain, value
from tasks.minerva_math.equality import DIFFERENT, EQUAL, LIMIT_S, UNDECIDED, verdicts

# In numbers such as 12\,345 and 12{,}345, which math-verify takes for two, or adds.
_SEPARATORS = re.compile(r"(?<=\d)(?:\\[,;:! ]|\{,\}|,\\!|~)(?=\d{3}(?!\d))")
# What answers may be called: x = 1 or x = 2; \gcd(12, 18) = 6.
_BETWEEN = re.compile(r"[,;]|\\text\s*\{\s*(?:and|or)\s*\}")
_NAMED = re.compile(r"\s*\\?[A-Za-z]\w*(?:_\{[^{}]*\})?\s*=([^=<>]+)")
_LONG_NAMED = re.compile(r"(?:(?!\\text|[;<>]).)*=([^,;=<>]+)", re.DOTALL)
# Layout that math-verify does not know, a space for a line of a matrix and endings of ordinals too.
_SPACES = re.compile(
    r"~|(?<!\\)\\[,;: ]|\\(?:q?quad|enspace)(?![A-Za-z])|\\hspace\*?\s*\{[^{}]*\}"
    r"|(?<=\\\\)\s*\[[^][,]*\]"
)
_SIGNS = re.compile(r"\\([pm])[mp](?![A-Za-z])")
_ORDINAL = re.compile(r"(?<=\d)\s*\^\s*\{\s*(?:\\text\s*\{\s*)?(?:st|nd|rd|th)\s*\}{1,2}")
_APPROXIMATE = re.compile(r"^\s*(?:=|\\approx(?![A-Za-z])|≈)")
_PERCENT = re.compile(r"\s*(?:\\?%|\\text\s*\{\s*(?:percent|\\?%)\s*\}|percent)$")
# Letters of options, behind each other.
_LETTERS = re.compile(r"\(?[A-Z]\)?(?:(?:,|and|,and)\(?[A-Z]\)?)+")
# math-verify ignores the base of 1010_2.
_DIGITS = re.compile(r"([0-9A-F]+)(?:\s*_\s*\{?\s*(?P<base>\d+)\s*\}?)?")


def compare_boxes(
    answers: Sequence[Sequence[str]], docs: Sequence[Mapping[str, Any]]
) -> list[list[dict[str, Any]]]:
    """Return the last box of each answer, and whether it equals that of the solution."""
    boxes = [[last_box(text) for text in texts] for texts in answers]
    golds = [last_box(solution(doc)) or "" for doc in docs]
    asked = [
        (gold, box)
        for gold, of_item in zip(golds, boxes, strict=True)
        for box in of_item
        if box is not None
    ]
    found = {pair: by_text(*compared(*pair)) for pair in asked}
    left = [pair for pair, verdict in found.items() if verdict is None]
    found.update(zip(left, verdicts([compared(*pair) for pair in left]), strict=True))
    if undecided := [box for (_, box), verdict in found.items() if verdict == UNDECIDED]:
        sys.stderr.write(
            f"fastdllm: {len(undecided)} boxes cannot be compared within {LIMIT_S} s of processor "
            f"time and count as wrong (metric undecided), such as {undecided[0][:60]!r}\n"
        )
    return [
        [{"box": box, "verdict": None if box is None else found[gold, box]} for box in of_item]
        for gold, of_item in zip(golds, boxes, strict=True)
    ]


def score(_doc: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Score one answer, of which `compare_boxes` has made what is given."""
    (read,) = results
    return {
        "math_verify": float(read["verdict"] == EQUAL),
        "boxed": float(read["box"] is not None),
        "undecided": float(read["verdict"] == UNDECIDED),
    }


def solution(doc: Mapping[str, Any]) -> str:
    r"""Return the solution of an item.

    Raises:
        ValueError: it has no \boxed{...}, which is the answer.
    """
    text = doc["solution"]
    if not isinstance(text, str) or last_box(text) is None:
        raise ValueError(r"column 'solution' has no \boxed{...}, which is the right answer")
    return text


def compared(gold: str, answer: str) -> tuple[str, str]:
    """Return what of two boxes is to be compared: no style, and no name of the answer."""
    gold, answer = (
        _ORDINAL.sub("", _SPACES.sub(" ", UNIT.sub("", STYLE.sub("", _SEPARATORS.sub("", text)))))
        for text in (gold, answer)
    )
    answer = _APPROXIMATE.sub("", answer)
    if "=" not in gold:
        named = [_NAMED.fullmatch(part) for part in _BETWEEN.split(answer)]
        if not all(named):
            named = [_LONG_NAMED.fullmatch(answer)]
        if all(named):
            answer = ", ".join(found[1] for found in named if found)
    gold, answer = (re.sub(r"(?<!\\)[\s.,;]+$", "", text) for text in (gold, answer))
    if "=" not in gold:
        gold, answer = _with_both_signs(gold), _with_both_signs(answer)
    return gold, answer


def _with_both_signs(text: str) -> str:
    r"""Write \frac{1 \pm x}{2} as two values; outside of fractions math-verify does so."""
    if not re.search(r"frac.*\\(?:pm|mp)", text) or re.search(r"[,;=]|\\text", text):
        return text
    upper = _SIGNS.sub(lambda found: "+" if found[1] == "p" else "-", text)
    lower = _SIGNS.sub(lambda found: "-" if found[1] == "p" else "+", text)
    return f"{upper}, {lower}"


def by_text(gold: str, answer: str) -> str | None:
    """Compare two texts of boxes without math-verify; None if only that can tell.

    Equal are equal texts, apart from layout, and equal numbers. Different are two numbers that are
    not rounded. Where only one is a percentage, it may mean the number itself or a hundredth of it.
    """
    texts = [plain(text) for text in (gold, answer)]
    unspaced = [re.sub(r"\s", "", WORDS.sub(r"\1", text)) for text in texts]
    if all(map(_LETTERS.fullmatch, unspaced)):
        unspaced = ["".join(sorted(re.findall("[A-Z]", text))) for text in unspaced]
    if unspaced[0] == unspaced[1]:
        return EQUAL
    digits = [_DIGITS.fullmatch(text) for text in texts]
    if digits[0] and digits[1] and (digits[0]["base"] or digits[1]["base"]):
        bases = {found["base"] for found in digits if found and found["base"]}
        return EQUAL if digits[0][1] == digits[1][1] and len(bases) == 1 else DIFFERENT
    shares = [_PERCENT.search(text) is not None for text in texts]
    numbers = [NUMBER.fullmatch(_PERCENT.sub("", text)) for text in texts]
    values = [None if number is None else value(number) for number in numbers]
    if values[0] is None or values[1] is None:
        return None
    if values[0] == values[1]:
        return EQUAL
    if shares[0] != shares[1]:
        share, other = values if shares[0] else reversed(values)
        if share / 100 == other:
            return EQUAL
    return None if any("." in text for text in texts) else DIFFERENT
