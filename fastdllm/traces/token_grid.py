"""A trace as a grid: which token stands where after each step, in blocks and sub-blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from fastdllm.common.console import counted
from fastdllm.common.errors import UserError
from fastdllm.decoding.sequence import PassCounts
from fastdllm.traces.palette import LEVELS

if TYPE_CHECKING:
    from fastdllm.traces.record import Trace

LINE_BREAK, TAB, SPACE, NOTHING = "\u23ce", "\u21e5", "\u2423", "\u2205"
WORDS = {"full_block": "full block", "sub_block": "sub-block"}


@dataclass(frozen=True, slots=True)
class TokenCell:
    """A token that a step committed.

    step: from 1 on. step_level: how late in its block, 0 (first step that committed a token there)
        to 6 (last).
    """

    token: int
    step: int
    step_level: int
    probability: float


class TokenGrid:
    """The tokens of an answer by their index in it; the last block may go on after its end."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.start, self.block_size = len(trace.prompt.ids), trace.settings.block_size
        is_unfinished = trace.answer.finish_reason == "unfinished"
        self.length = None if is_unfinished else len(trace.answer.ids)
        committed = [
            (position, number, step.tokens[i], step.probabilities[i])
            for number, step in enumerate(trace.steps, start=1)
            for i, position in enumerate(step.positions)
        ]
        ranks: dict[int, dict[int, int]] = {}  # of the steps in each block
        for position, number, *_ in committed:
            block = ranks.setdefault(position // self.block_size, {})
            block.setdefault(number, len(block))
        self.cells: dict[int, TokenCell] = {}
        for position, number, token, probability in committed:
            block = ranks[position // self.block_size]
            level = round(block[number] * (LEVELS - 1) / max(1, len(block) - 1))
            self.cells[position - self.start] = TokenCell(token, number, level, probability)
        begun = [self.start, *(step.block * self.block_size for step in trace.steps)]
        begun += [position for position, *_ in committed]
        self.stop = (max(begun) // self.block_size + 1) * self.block_size  # a position

    def blocks(self) -> Iterator[list[list[int]]]:
        """Yield the indices of each block, by sub-blocks."""
        size = self.trace.settings.small_block_size
        positions = range(self.start, self.stop)
        for _, block in groupby(positions, lambda position: position // self.block_size):
            within = groupby(block, lambda position: position % self.block_size // size)
            yield [[position - self.start for position in group] for _, group in within]

    def cell(self, index: int, step: int) -> TokenCell | None:
        """Return the token at an index after a step; None if it is still masked."""
        cell = self.cells.get(index)
        return cell if cell is not None and cell.step <= step else None

    def final_text(self, index: int) -> str:
        """Return what to show of the token that comes to stand at an index."""
        cell = self.cells.get(index)
        if cell is None:
            return ""
        text = self.trace.pieces[cell.token].text
        if not text.strip(" "):
            return SPACE * len(text) or NOTHING
        return text.replace("\r\n", "\n").replace("\n", LINE_BREAK).replace("\t", TAB)

    def is_past(self, index: int) -> bool:
        """Return whether an index is behind the end of the answer."""
        return self.length is not None and index >= self.length

    def counters(self, step: int) -> str:
        """Return passes by kind, tokens and costs after a step, in words."""
        steps = self.trace.steps[:step]
        passes = Counter(str(one.kind) for one in steps)
        tokens = sum(
            cell.step <= step and not self.is_past(index) for index, cell in self.cells.items()
        )
        parts = [", ".join(f"{n} {WORDS.get(kind, kind)}" for kind, n in passes.items())]
        parts.append(counted(tokens, "token"))
        if forwards := PassCounts(**passes).forwards:
            parts.append(f"{tokens / forwards:.2f} tokens per forward")
        skipped = sum(one.layers_skipped for one in steps)
        if layers := skipped + sum(one.layers_computed for one in steps):
            parts.append(f"layer-forwards saved {100 * skipped / layers:.1f} %")
        if steps and steps[-1].seconds:
            parts.append(f"{tokens / steps[-1].seconds:.1f} tokens/s")
        return " | ".join(filter(None, parts))


def check_comparable(first: Trace, second: Trace, where: str) -> None:
    """Refuse two traces whose token ids do not mean the same; `where` opens the error line.

    Raises:
        UserError: the vocabularies differ in size, or in a token that both traces name.
    """
    sizes = [trace.model.vocab_size for trace in (first, second)]
    pieces = ((t, first.pieces[t], second.pieces[t]) for t in first.pieces if t in second.pieces)
    others = (
        f"token {token} is {one.text[:20]!r} and {other.text[:20]!r}"
        for token, one, other in pieces
        if (one.text, one.bytes) != (other.text, other.bytes)
    )
    reason = next(others, None)
    if sizes[0] != sizes[1]:
        reason = f"of {sizes[0]} and {sizes[1]} tokens"
    if reason is not None:
        raise UserError(
            f"{where}: other vocabularies ({reason}), so their tokens cannot be compared; show "
            "each alone"
        )


def differing(first: Trace, second: Trace) -> frozenset[int]:
    """Return the indices at which two answers have other tokens, or only one has any."""
    answers = [trace.answer.ids for trace in (first, second)]
    same = {i for i, (a, b) in enumerate(zip(*answers, strict=False)) if a == b}
    return frozenset(range(max(map(len, answers)))) - same


def step_words(trace: Trace, step: int) -> str:
    """Say which step it is and what it did."""
    last = len(trace.steps)
    if step == 0:
        return f"Before the first of {counted(last, 'step')}"
    if step > last:
        return f"Done after {counted(last, 'step')}"
    done = trace.steps[step - 1]
    kind = WORDS.get(str(done.kind), str(done.kind))
    return f"Step {step} of {last}: {kind} pass writes {counted(len(done.positions), 'token')}"
