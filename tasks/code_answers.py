"""The Python code in an answer, cut down to what a function needs, and its verdict in the sandbox.

Code stands in fences, or bare between sentences. An answer may repeat itself, show how to use the
function, test it, or explain it with more code; only the function with what it needs is run.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

from fastdllm.sandbox.programs import Limits, Program, run_programs
from tasks.code_statements import Statement, needed, statements_of

# Here, so that they are part of the task. The slowest reference, of item 123 of mbpp, takes 2 s.
LIMITS = Limits(cpu_s=10, wall_s=60, memory_bytes=2 << 30)

# A line with one fence, and what stands before it: where code begins or ends.
_FENCE = re.compile(r"([^`]*+)`{3,}+[^`]*+$")


def program(
    text: str, names: Sequence[str], *, prompt: str = "", before: Sequence[Statement] = ()
) -> str | None:
    """Return the code of an answer that defines a function, with nothing that it does not need.

    Args:
        names: the function, then what else its tests use.
        prompt: the beginning of the function, which an answer may go on with.
        before: what the code may use without a word.
    """
    parts = _between_fences(text)
    pieces = [piece for part in parts for piece in _pieces(part)]
    if len(parts) % 2 == 0:  # no fence ends the last one, so that its last statement may be cut
        ended = [*pieces[:-1], pieces[-1][:-1]]
        pieces = ended if _defining(ended, names[0]) else pieces
    if len(parts) > 1 and not _defining(pieces, names[0]):  # a docstring may have fences too
        pieces += _pieces("\n".join(parts))
    found = _defining(pieces, names[0])
    if not found and prompt:
        found = [code for part in parts for code in _continued(prompt, part, names[0])]
    # Not by a function of its own: an assignment or import, or one that returns nothing.
    found = found or [piece for piece in pieces if any(names[0] in one.bound for one in piece)]
    if not found:
        return None
    chosen = found[-1]
    others = [one for piece in pieces if piece is not chosen for one in piece]
    return needed(chosen, others, names, before=before)


def judged(
    codes: Sequence[Sequence[str | None]], tests: Iterable[str]
) -> list[list[dict[str, Any]]]:
    """Return code, outcome and reason of each answer; codes and tests: of each item."""
    jobs = [
        Program(code, of_item)
        for answers, of_item in zip(codes, tests, strict=True)
        for code in answers
        if code is not None
    ]
    verdicts = iter(run_programs(jobs, LIMITS))

    def record(code: str | None) -> dict[str, Any]:
        if code is None:
            return {"code": None, "outcome": "no code", "reason": ""}
        verdict = next(verdicts)
        return {"code": code, "outcome": verdict.outcome, "reason": verdict.reason}

    return [[record(code) for code in answers] for answers in codes]


def score(_doc: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Score one answer as its filter has judged it."""
    (verdict,) = results
    return {
        "pass@1": float(verdict["outcome"] == "passed"),
        "code_found": float(verdict["code"] is not None),
        "timeout": float(verdict["outcome"] == "timeout"),
    }


def _between_fences(text: str) -> list[str]:
    """Return the parts of a text between fences: code, and what is said of it."""
    parts: list[list[str]] = [[]]
    for line in text.split("\n"):
        fence = _FENCE.match(line)
        parts[-1].append(fence[1] if fence else line)
        if fence:
            parts.append([])
    return ["\n".join(part) for part in parts]


def _defining(pieces: Iterable[list[Statement]], name: str) -> list[list[Statement]]:
    """Return the pieces with a function of this name that returns something."""
    return [piece for piece in pieces if any(name in one.bound and one.gives for one in piece)]


def _pieces(text: str) -> list[list[Statement]]:
    """Return the code in a text: all of it, or the parts between sentences."""
    lines, pieces, at = text.split("\n"), [], 0
    while at < len(lines):
        end, statements = _longest(_at_one_depth(lines[at:]))
        pieces.append(statements)
        at += max(end, 1)
    return pieces


def _at_one_depth(lines: Sequence[str]) -> list[str]:
    """Return the lines that are indented like the first or more, without its indentation."""
    depth = len(lines[0]) - len(lines[0].lstrip())
    indented = takewhile(lambda line: not line[:depth].strip(), lines)
    return [line[depth:] for line in indented]


def _longest(lines: Sequence[str]) -> tuple[int, list[Statement]]:
    """Return how many lines the longest code has that begins with the first, and its statements.

    Without the last statement if it goes on, but not so that it can be read: it was cut off.
    """
    end = len(lines)
    while end > 0:
        try:
            statements = statements_of("\n".join(lines[:end]))
        except SyntaxError as error:
            # No code that has the line of the error can be read either.
            end = min(end, error.lineno or end) - 1
        else:
            is_cut = end < len(lines) and lines[end][:1].isspace()
            return end, statements[:-1] if is_cut else statements
    return 0, []


def _continued(prompt: str, text: str, name: str) -> list[list[Statement]]:
    """Return the function that a prompt begins with an answer as the rest of it, if it is one."""
    begun = prompt.rstrip()
    last = begun.rpartition("\n")[2]
    indent = last[: len(last) - len(last.lstrip())]
    ways = (
        textwrap.indent(textwrap.dedent(text), indent),
        indent + text.strip(),  # the spaces before an answer are lost in a chat
    )
    return _defining((_longest(f"{begun}\n{way}".split("\n"))[1] for way in ways), name)[:1]
