"""Follows the steps of a trace by the rules of decoding, and refuses those that contradict them.

A trace may come from anyone: what a view or a figure is made of is checked here. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from fastdllm.decoding.sequence import PassCounts
from fastdllm.policy import PassKind
from fastdllm.settings import DecodingSettings
from fastdllm.traces.parts import ROUNDING, TracedModel, TracedStep


class Contradiction(ValueError):
    """A step that cannot have been; the message names the step and the field."""


@dataclass(slots=True)
class StepReplay:
    """One sequence while its steps are followed.

    ends_after: tokens of an answer that a stop string ended; None if none did.
    """

    model: TracedModel
    settings: DecodingSettings
    prompt_length: int
    ends_after: int | None = None
    tokens: dict[int, int] = field(default_factory=dict)  # committed, by position
    answer: list[int] = field(default_factory=list)  # known without a gap
    finish_reason: str | None = None
    passes: PassCounts = field(default_factory=PassCounts)
    block: int = 0
    stop_tokens: frozenset[int] = frozenset()
    leftmost: int = 0  # the first position that is not known
    seconds: float = 0.0

    def follow(self, steps: Sequence[TracedStep]) -> None:
        """Follow all steps.

        Raises:
            Contradiction: a step does not agree with those before it, or with the settings.
        """
        self.block = self.prompt_length // self.settings.block_size
        self.leftmost = self.prompt_length
        self.stop_tokens = frozenset(self.model.stop_tokens)
        for index, step in enumerate(steps):
            problem = next(self._problems(index, step), None)
            if problem is not None:
                raise Contradiction(f"steps.{index}.{problem}")
            self._apply(step)

    def _problems(self, index: int, step: TracedStep) -> Iterator[str]:
        if self.finish_reason is not None:
            yield "kind: the answer had ended before this step"
        if step.block != self.block:
            yield f"block: {step.block} is not {self.block}, where the steps before it ended"
        if step.seconds < self.seconds:
            yield f"seconds: {step.seconds:g} is earlier than the step before it"
        layers, kind = step.layers_computed + step.layers_skipped, step.kind
        if layers != self.model.num_layers:
            yield f"layers_computed: {layers} with those skipped, of {self.model.num_layers}"
        skips = {PassKind.REUSED: {layers}, PassKind.SUB_BLOCK: range(layers + 1)}
        if step.layers_skipped not in skips.get(kind, {0}):
            yield f"layers_skipped: {step.layers_skipped} is not possible in a {kind} step"
        if step.rows not in self._possible_rows(kind):
            yield f"rows: {step.rows} is not possible in a {kind} step"
        yield from self._problems_of_place(index, step)
        yield from self._problems_of_tokens(step)

    def _possible_rows(self, kind: PassKind) -> Sequence[int]:
        size = self.settings.block_size
        return {
            # Blocks that were kept from an earlier request are not run again.
            PassKind.PREFILL: range(0, self.block * size + 1, size),
            PassKind.SUB_BLOCK: (self.settings.small_block_size,),
            PassKind.REUSED: (0,),
        }.get(kind, (size,))

    def _problems_of_place(self, index: int, step: TracedStep) -> Iterator[str]:
        if step.denoises:
            yield from self._problems_of_denoising(step)
        elif step.sub_block is not None or step.proposed:
            yield f"{'proposed' if step.proposed else 'sub_block'}: a {step.kind} step has none"
        elif step.kind is PassKind.PREFILL:
            first = self.block * self.settings.block_size
            if index > 0 or self.block == 0:
                yield "kind: a prefill is the first step, of a prompt of whole blocks"
            yield from _not_exactly(step, (first,) if first == self.prompt_length else ())
        else:
            if self.leftmost < self._end:
                yield f"kind: a commit, but position {self.leftmost} of its block is masked"
            yield from _not_exactly(step, (self._end,))

    def _problems_of_denoising(self, step: TracedStep) -> Iterator[str]:
        if self.leftmost >= self._end:
            yield f"kind: a {step.kind} step, but no position of its block is masked"
        leftmost = self.leftmost % self.settings.block_size // self.settings.small_block_size
        if step.sub_block != leftmost:
            yield f"sub_block: {step.sub_block} is not {leftmost}, the leftmost with a mask"
        if not step.positions:
            yield "positions: a denoising step commits at least one"
        still_masked = [proposed.position for proposed in step.proposed or ()]
        for name, positions in (("positions", step.positions), ("proposed", still_masked)):
            for position in positions:
                if position in self.tokens:
                    yield f"{name}: {position} is known already"
                if not self.leftmost <= position < self._end:
                    yield f"{name}: {position} is no position of the answer in block {self.block}"
            if list(positions) != sorted(set(positions)):
                yield f"{name}: not ascending"
        if both := set(step.positions) & set(still_masked):
            yield f"proposed: {min(both)} was committed"

    def _problems_of_tokens(self, step: TracedStep) -> Iterator[str]:
        pairs = [
            *(("tokens", token) for token in step.tokens),
            *(("runners_up", c.token) for group in step.runners_up or () for c in group),
            *(("proposed", proposed.token) for proposed in step.proposed or ()),
        ]
        for name, token in pairs:
            if not 0 <= token < self.model.vocab_size:
                yield f"{name}: {token} is outside the vocabulary of {self.model.vocab_size}"
            if token == self.model.mask_id:
                yield f"{name}: {token} is the mask"
        if self.settings.temperature > 0 and step.denoises:
            return
        for share, group in zip(step.probabilities, step.runners_up or (), strict=False):
            if any(candidate.probability > share for candidate in group):
                yield "runners_up: more likely than the token that was chosen"
            if share + sum(candidate.probability for candidate in group) > 1 + ROUNDING:
                yield "runners_up: with the token, more probable than 1"

    @property
    def _end(self) -> int:
        """One past the last position of the block."""
        return (self.block + 1) * self.settings.block_size

    def _apply(self, step: TracedStep) -> None:
        self.passes.add_pass(step.kind, computed=step.layers_computed, skipped=step.layers_skipped)
        self.seconds = step.seconds
        if step.kind is PassKind.COMMIT:
            self.block += 1
        self.tokens.update(zip(step.positions, step.tokens, strict=True))
        while self.leftmost in self.tokens:
            token = self.tokens[self.leftmost]
            self.leftmost += 1
            if self.finish_reason is not None:
                continue
            self.answer.append(token)
            if token in self.stop_tokens:
                self.finish_reason = "stop"
            elif len(self.answer) == self.ends_after:
                self.finish_reason = "stop_when"
            elif len(self.answer) == self.settings.max_new_tokens:
                self.finish_reason = "length"


def _not_exactly(step: TracedStep, expected: tuple[int, ...]) -> Iterator[str]:
    if step.positions != expected:
        yield f"positions: {list(step.positions)} is not {list(expected)}"
