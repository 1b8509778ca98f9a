"""The Python code in an answer, cut down to what a function needs, and its verdict in the sandbox.

Code stands in fences, or bare between sentences. An answer may repeat itself, show how to use the
function, test it, or explain it with more code; only the function with what it needs is run.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from fastdllm.sandbox.programs import Limits, Program, run_programs
from tasks.code_statements import Statement, error_line, needed, statements_of

# Here, so that they are part of the task. The slowest reference, of item 123 of mbpp, takes 2 s.
LIMITS = Limits(cpu_s=10, wall_s=60, memory_bytes=2 << 30)

_FENCE = re.compile(r"^([ \t]*)(.*?)(`{3,}|~{3,})[ \t]*([^\s`]*)[ \t]*$")
_PYTHON = ("", "python", "python3", "py", "py3", "ipython", "ipython3", "pycon")
# What code without a fence may begin with.
_START = re.compile(r" *(?:def|class|async def|import|from)\s| *@\w|[A-Za-z_][\w, ]*=[^=]")
_UNSEEN = re.compile("[\ufeff\u200b\u2060]")


class Code(NamedTuple):
    """A piece of code; is_whole: nothing of it had to be left out."""

    statements: list[Statement]
    is_whole: bool

    def defines(self, name: str) -> bool:
        """Whether it defines a name, and not only what a prompt has of it."""
        return any(name in one.bound and not one.is_stub for one in self.statements)


def program(
    text: str, names: Sequence[str], *, prompt: str = "", before: Sequence[Statement] = ()
) -> str | None:
    """Return the code of an answer that defines a function, with nothing that it does not need.

    Args:
        names: the function, then what else its tests use.
        prompt: the beginning of the function, which an answer may go on with.
        before: what the code may use without a word.
    """
    text = _UNSEEN.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    fenced = list(_fenced(text))
    places = fenced or [text]
    pieces = [piece for place in places for piece in _pieces(place)]
    if fenced and not any(piece.defines(names[0]) for piece in pieces):
        pieces += _pieces(_without_fences(text))
    found = [piece for piece in pieces if piece.defines(names[0])]
    if not found and prompt:
        found = [code for place in places if (code := _continued(prompt, place, names[0]))]
    if not found:
        return None
    # The last of several attempts; but rather a whole one than one that was cut off.
    chosen = [*found, *(piece for piece in found if piece.is_whole)][-1]
    others = [one for piece in pieces if piece is not chosen for one in piece.statements]
    return needed(chosen.statements, others, names, before=before)


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


def _fenced(text: str) -> Iterator[str]:
    """Yield each fenced block of Python, or of no language that is named.

    The last one may have no end: the answer was cut, or ended by a text of `until`.
    """
    opened: re.Match[str] | None = None
    block: list[str] = []
    for line in text.split("\n"):
        found = _FENCE.match(line)
        if opened is None:
            # Before the fence may stand a sentence, but no other fence: that is code in a line.
            if found and "`" not in found[2]:
                opened, block = found, []
            continue
        is_fence = found and found[3][0] == opened[3][0] and len(found[3]) >= len(opened[3])
        if not is_fence or (found[2] and found[4]):
            block.append(line)
        elif found[4]:  # the beginning of another
            yield from _of_python(opened, block)
            opened, block = found, []
        else:
            yield from _of_python(opened, [*block, found[1] + found[2]])
            opened = None
    if opened is not None:
        yield from _of_python(opened, block)


def _of_python(opened: re.Match[str], block: Sequence[str]) -> Iterator[str]:
    content = textwrap.dedent("\n".join(block))
    if opened[4].lower().strip("{}.") in _PYTHON and content.strip():
        yield content


def _without_fences(text: str) -> str:
    return "\n".join(line for line in text.split("\n") if not _FENCE.match(line))


def _pieces(text: str) -> list[Code]:
    """Return the code in a text: all of it, or the parts between sentences."""
    spaced, wide = (text.replace("\u00a0", " ").expandtabs(width) for width in (4, 8))
    for whole in (text, textwrap.dedent(text), spaced, wide):
        statements = statements_of(whole)
        if statements is not None:
            return [Code(statements, is_whole=True)]
    lines, pieces, at = spaced.split("\n"), [], 0
    while at < len(lines):
        end, statements = 0, None
        if _START.match(lines[at]):
            block = _at_one_depth(lines[at:])
            end, statements = _longest(block, least=1)
        if statements is not None:
            # Code that goes on, but not so that it can be read, was cut off.
            is_cut = end < len(block) and block[end][:1].isspace()
            pieces.append(Code(statements, is_whole=not is_cut))
        at += max(end, 1)
    return pieces


def _at_one_depth(lines: Sequence[str]) -> list[str]:
    """Return the lines that are indented like the first or more, without its indentation."""
    depth = len(lines[0]) - len(lines[0].lstrip(" "))
    indented = takewhile(lambda line: not line.strip() or not line[:depth].strip(), lines)
    return [line[depth:] for line in indented]


def _longest(lines: Sequence[str], *, least: int) -> tuple[int, list[Statement] | None]:
    """Return how many lines the longest code has that begins with the first, and its statements.

    least: fewer it may not have; if there is none, 0 and None.
    """
    end = len(lines)
    while end >= least:
        code = "\n".join(lines[:end])
        wrong = error_line(code)
        if wrong is None:
            return end, statements_of(code)
        # No code that has the line of the error can be read either.
        end = min(end - 1, wrong - 1)
    return 0, None


def _continued(prompt: str, text: str, name: str) -> Code | None:
    """Return the function of a prompt with an answer as the rest of it."""
    begun = prompt.rstrip().split("\n")
    indents = [line[: len(line) - len(line.lstrip())] for line in begun if line.strip()]
    indent = indents[-1] or "    "
    ways = (
        text,
        indent + text.strip(),  # the spaces before an answer are lost in a chat
        textwrap.indent(textwrap.dedent(text), indent),
    )
    best: Code | None = None
    for way in ways:
        lines = [*begun, *way.replace("\u00a0", " ").expandtabs(4).split("\n")]
        end, statements = _longest(lines, least=len(begun) + 1)
        if statements is None:
            continue
        is_cut = end < len(lines) and lines[end][:1].isspace()
        code = Code(statements, is_whole=not is_cut)
        gives = any(name in one.bound and one.gives for one in statements)
        if code.defines(name) and gives and (best is None or code.is_whole > best.is_whole):
            best = code
    return best
