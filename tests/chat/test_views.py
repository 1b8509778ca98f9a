"""What is shown of an answer while it is decoded ends as the answer, whatever the screen."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pyte
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from fastdllm import Step
from fastdllm.chat.answer_views import LiveView, PlainView
from fastdllm.chat.figures import StepView, visible
from fastdllm.decoding.sequence import Generation, PassCounts
from fastdllm.policy import PassKind
from fastdllm.serving.partial import PartialAnswer

PROMPT, BLOCK = 5, 8
PIECES = ("a", "bc ", "\n", " ", "wörd", "数", "x" * 15, "\x1b[2J", "1.")


def text_of(ids: Sequence[int], **_: object) -> str:
    return "".join(PIECES[token] for token in ids)


@st.composite
def decodings(draw: st.DrawFn) -> tuple[list[int], list[Step]]:
    """The tokens of an answer, and steps that commit them, block by block, in any order."""
    tokens = draw(st.lists(st.integers(0, len(PIECES) - 1), min_size=1, max_size=40))
    steps, places = [], list(range(PROMPT, PROMPT + len(tokens)))
    for block in range(PROMPT // BLOCK, places[-1] // BLOCK + 1):
        open_ = draw(st.permutations([p for p in places if p // BLOCK == block]))
        while open_:
            count = draw(st.integers(1, len(open_)))
            taken, open_ = tuple(open_[:count]), open_[count:]
            ids = tuple(tokens[place - PROMPT] for place in taken)
            steps.append(Step(0, PassKind.FULL_BLOCK, block=block, positions=taken, tokens=ids))
    return tokens, steps


def screens(width: int, height: int) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=True, width=width, height=height), file


@settings(max_examples=60, deadline=None)
@given(decodings(), st.integers(16, 60), st.integers(2, 30))
def test_masks_fill_in_place(
    decoding: tuple[list[int], list[Step]], width: int, height: int
) -> None:
    tokens, steps = decoding
    console, file = screens(width, height)
    partial = PartialAnswer(PROMPT, block_size=BLOCK, most=len(tokens))
    with LiveView(console, text_of) as view:
        for step in steps:
            partial.add(step)
            view.show(partial)
        view.finish(text_of(tokens))
    assert partial.known == tokens
    assert partial.open == []
    live = lines_of(file.getvalue(), width, height)
    console, file = screens(width, height)
    with LiveView(console, text_of) as view:
        view.finish(text_of(tokens))
    assert live == lines_of(file.getvalue(), width, height)
    assert "▁" not in "".join(live)
    assert "\x1b[2J" not in file.getvalue()


def test_control_characters_are_shown_not_sent() -> None:
    assert (
        visible("a\n\tb\r\x1b]0;title\x07\x7f\x9b2J")
        == "a\n\tb␍␛]0;title␇␡\N{REPLACEMENT CHARACTER}2J"
    )


def test_a_line_per_pass_holds_no_control_character_of_the_answer() -> None:
    class Tokenizer:
        def decode(self, ids: Sequence[int]) -> str:
            return text_of(ids)

    console, file = screens(60, 5)
    tokens = (0, PIECES.index("\x1b[2J"), PIECES.index("\n"))
    step = Step(0, PassKind.FULL_BLOCK, positions=(5, 6, 7), tokens=tokens, confidences=(0.5,) * 3)
    StepView(console, Tokenizer(), (0,) * PROMPT).show(step)
    (line,) = lines_of(file.getvalue(), 60, 5)
    assert line.endswith("0.50  a␛[2J⏎")


def lines_of(output: str, width: int, height: int) -> list[str]:
    """The lines of a terminal, those that scrolled off included."""
    screen = pyte.HistoryScreen(width, height, history=1000)
    pyte.Stream(screen).feed(output.replace("\n", "\r\n"))
    rows = [*screen.history.top, *(screen.buffer[row] for row in range(height))]
    lines = ["".join(row[x].data for x in range(width)).rstrip() for row in rows]
    while lines and not lines[-1]:
        lines.pop()
    return lines


@settings(max_examples=40, deadline=None)
@given(decodings())
def test_a_pipe_gets_the_text_and_nothing_else(decoding: tuple[list[int], list[Step]]) -> None:
    tokens, steps = decoding
    file = io.StringIO()
    partial = PartialAnswer(PROMPT, block_size=BLOCK, most=len(tokens))
    with PlainView(Console(file=file), text_of) as view:
        for step in steps:
            partial.add(step)
            view.show(partial)
        view.finish(text_of(tokens))
    assert file.getvalue() == text_of(tokens) + "\n"


def test_masks_are_shown_to_the_end_of_the_block_or_the_limit() -> None:
    partial = PartialAnswer(PROMPT, block_size=BLOCK, most=5)
    partial.add(Step(0, PassKind.FULL_BLOCK, block=0, positions=(5, 7), tokens=(0, 4)))
    assert (partial.known, partial.open) == ([0], [[None], [4]])
    partial.add(Step(0, PassKind.FULL_BLOCK, block=1, positions=(6,), tokens=(1,)))
    assert (partial.known, partial.open) == ([0, 1, 4], [[None, None]])
    assert partial.stopped() == Generation([0, 1, 4], "stop_when", PassCounts(full_block=2))
