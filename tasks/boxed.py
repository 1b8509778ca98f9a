r"""The last \boxed{...} of an answer, and the number in it: shared by gsm8k and minerva_math."""

from __future__ import annotations

import re
from fractions import Fraction

# Two backslashes where one was meant, too.
_TOKEN = re.compile(r"(?P<box>\\+(?:boxed|fbox)(?![A-Za-z])\s*(?P<brace>\{)?)|\\.|[{}]", re.DOTALL)
# \boxed 18, which TeX takes for a box around the 1: what follows in the same formula, but no prose.
_UNBRACED = re.compile(r"(?=[-+.(\[\d\\]|[A-Za-z](?![A-Za-z]))(?:(?!\\[)\]])[^$\n])*")
_SPACE = re.compile(
    r"\\[,;: ]|\\(?:q?quad|enspace|thinspace|space)(?![A-Za-z])|\\hspace\*?\s*\{[^{}]*\}"
    r"|[~\s\u00a0\u2009\u202f]+"
)
# Commands that change how a text looks, whose argument stays.
STYLE = re.compile(
    r"\\(?:mathbf|boldsymbol|bm|underline|displaystyle|textstyle|bf|rm|boldmath|large|Large|LARGE"
    r"|huge|Huge)(?![A-Za-z])|\\(?:text)?color\s*\{[^{}]*\}"
)
# What stands in \text{...} and the like.
WORDS = re.compile(r"\\(?:text|math|mbox|operatorname)[a-z]*\s*\{([^{}]*)\}")
# A unit behind a number that is a quotient, as \frac{\text{miles}}{\text{hour}}.
UNIT = re.compile(
    r"(?<=[\d}])(?:\s|\\[,;: ]|~)*\\[dt]?frac"
    + r"\s*\{\s*\\(?:text|mathrm|mbox)\s*\{[^{}\d]*\}\s*\}" * 2
)
_LAYOUT = re.compile(r"(?<!\\)\$|\\!|\\(?:left|right)(?![A-Za-z])")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:,\d{3})+|(?: \d{3})+)(?![, ]?\d)")
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))")
# Not .18 of Rs.18.
_DECIMAL = r"(?:\d+(?:\.\d*)?|(?<![A-Za-z])\.\d+)"
_REPEATING = re.compile(
    r"(?<![\d.])(\d{0,50})\.(\d{0,50})\s*\\(?:overline|bar)\s*(?:\{\s*(\d{1,50})\s*\}|(\d))(?!\d)"
)
_POWER = re.compile(
    rf"(?:(?<![\d.])({_DECIMAL})\s*(?:\\times|\\cdot|[\u00d7*x])\s*|(?<![\d.^{{}}]))"
    r"10\s*\^\s*(?:\{\s*(-?\d{1,3})\s*\}|(-?\d))(?!\d)"
)
# Python makes no number of more than 4,300; whoever repeats one digit means none.
_MOST_DIGITS = 1000
# A mixed number or a fraction, else a decimal one.
NUMBER = re.compile(
    r"(?P<sign>(?<![A-Za-z\d.)])[-+]\s*)?(?:"
    rf"(?:(?P<whole>\d+) +)?(?P<over>{_DECIMAL})\s*/\s*(?P<under>{_DECIMAL})"
    rf"|(?P<decimal>{_DECIMAL})(?:[eE](?P<power>[+-]?\d{{1,3}})(?![A-Za-z\d]))?)"
)


def last_box(text: str) -> str | None:
    r"""Return what the last \boxed{...} or \fbox{...} holds; None if there is none.

    A box that is empty, as the instruction has it, or has no end, as where an answer was cut, does
    not count.
    """
    last, start = None, -1
    opened: list[int | None] = []  # for each open brace, where its box begins, if it is one's
    for token in _TOKEN.finditer(text):
        content = None
        if token["brace"] or token[0] == "{":
            opened.append(token.end() if token["brace"] else None)
        elif token["box"]:
            begin, unbraced = token.end(), _UNBRACED.match(text, token.end())
            content = unbraced[0] if unbraced else ""
        elif token[0] == "}" and opened and (begin := opened.pop()) is not None:
            content = text[begin : token.start()]
        if content is not None and content.strip("{} \t\r\n.") and begin > start:
            last, start = content.strip(), begin
    return last


def plain(text: str) -> str:
    """Return what a box holds without layout, such as spaces and separators of thousands."""
    text = text.replace("\u2212", "-").replace("\u2013", "-").replace("{,}", ",")
    for layout in (UNIT, STYLE, _LAYOUT):
        text = layout.sub("", text)
    text = _SPACE.sub(" ", text).strip(" ").rstrip(" .,;")
    if braced := re.fullmatch(r"\{+([^{}]*)\}+", text):
        text = braced[1]
    text = _THOUSANDS.sub(lambda found: re.sub("[, ]", "", found[0]), text)
    text = _REPEATING.sub(_of_period, text)
    text = _POWER.sub(lambda found: f"{found[1] or 1}e{found[2] or found[3]}", text)
    return _FRACTION.sub(_as_quotient, text).strip()


def _of_period(found: re.Match[str]) -> str:
    """Write a repeating decimal as a quotient: 0.1\\overline{6} is 15/90."""
    whole, fixed, period = found[1], found[2], found[3] or found[4]
    over = int(whole + fixed + period) - int(whole + fixed or 0)
    return f" {over}/{(10 ** len(period) - 1) * 10 ** len(fixed)} "


def _as_quotient(found: re.Match[str]) -> str:
    over, under = ((found[i] if found[i] is not None else found[i + 1]).strip() for i in (1, 3))
    is_of_numbers = re.fullmatch(_DECIMAL, over) and re.fullmatch(_DECIMAL, under)
    return f" {over}/{under} " if is_of_numbers else f"\\frac{{{over}}}{{{under}}}"


def value(number: re.Match[str]) -> Fraction | None:
    """Return the value of what `NUMBER` has found; None if it divides by 0 or has no end."""
    if len(number[0]) > _MOST_DIGITS:
        return None
    sign = -1 if (number["sign"] or "").startswith("-") else 1
    if number["decimal"]:
        return (
            sign
            * Fraction(number["decimal"].rstrip("."))
            * Fraction(10) ** int(number["power"] or 0)
        )
    under = Fraction(number["under"].rstrip("."))
    if not under:
        return None
    return sign * (int(number["whole"] or 0) + Fraction(number["over"].rstrip(".")) / under)
