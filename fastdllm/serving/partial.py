"""An answer while it is decoded: which tokens are known by now, out of order, and at what cost."""

from __future__ import annotations

import time
from itertools import groupby
from typing import TYPE_CHECKING

from fastdllm.decoding.sequence import Generation, PassCounts

if TYPE_CHECKING:
    from fastdllm import Step


class PartialAnswer:
    """The answer to one prompt, fed with the steps of its decoding.

    block_size and most: tokens of a block, and of the whole answer, which end the masks shown.
    """

    def __init__(self, prompt_length: int, *, block_size: int, most: int) -> None:
        self.generation: Generation | None = None
        self.elapsed_s = 0.0  # from here to the last step
        self._started = time.perf_counter()
        self._prompt_length, self._block_size, self._most = prompt_length, block_size, most
        self._known: dict[int, int] = {}  # by index in the answer
        self._known_to = 0
        self._end = 0  # of the current block
        self._passes = PassCounts()

    def add(self, step: Step) -> None:
        """Take in what one pass committed."""
        self.generation = step.finished
        self.elapsed_s = time.perf_counter() - self._started
        if step.kind is None:
            return
        self._passes.add_pass(step.kind, computed=0, skipped=0)
        end = (step.block + 1) * self._block_size - self._prompt_length
        self._end = max(self._end, min(end, self._most))
        for position, token in zip(step.positions, step.tokens, strict=True):
            self._known[position - self._prompt_length] = token
        while self._known_to in self._known:
            self._known_to += 1

    @property
    def known(self) -> list[int]:
        """The tokens before the first mask; they are final."""
        return [self._known[index] for index in range(self._known_to)]

    @property
    def open(self) -> list[list[int | None]]:
        """What follows them in the current block, as runs of masks (None) and of tokens."""
        rest = [self._known.get(index) for index in range(self._known_to, self._end)]
        return [list(run) for _, run in groupby(rest, key=lambda token: token is None)]

    def stopped(self) -> Generation:
        """The answer as it is now, ended by the user."""
        return Generation(self.known, "stop_when", self._passes)
