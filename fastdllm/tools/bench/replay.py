"""A recorded decoding, made once more with every pass run: what skipping passes saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from fastdllm.decoding.loop import Step
from fastdllm.policy import PassKind, Policy, Predictions, SequenceState
from fastdllm.settings import DecodingSettings

if TYPE_CHECKING:
    from torch import Tensor


class EveryPassRun(Policy):
    """Commits what a recorded decoding committed, pass by pass, and runs the reused passes too.

    A pass that was reused commits the same positions; its tokens are those that it finds itself.
    """

    def __init__(self, settings: DecodingSettings, num_layers: int, steps: Iterable[Step]) -> None:
        """Record the `steps` of a whole decoding, which all its denoising passes are in."""
        super().__init__(settings, self.Parameters(), num_layers)
        self._kinds: dict[tuple[int, int, int], PassKind] = {}
        self._offsets: dict[tuple[int, int, int], list[int]] = {}
        block_steps: Counter[tuple[int, int]] = Counter()
        for step in steps:
            if step.kind is None or step.sub_block is None:
                continue
            key = (step.request, step.block, block_steps[step.request, step.block])
            block_steps[step.request, step.block] += 1
            is_reused = step.kind is PassKind.REUSED
            self._kinds[key] = PassKind.SUB_BLOCK if is_reused else step.kind
            self._offsets[key] = [p - step.block * settings.block_size for p in step.positions]

    def next_pass(self, state: SequenceState) -> PassKind:
        """The recorded pass; in place of a reused one the pass that it stood for."""
        return self._kinds[_key(state)]

    def accept(self, predictions: Predictions, states: Sequence[SequenceState]) -> Tensor:
        """The recorded positions."""
        accepted = predictions.masked.new_zeros(predictions.masked.shape)
        starts = predictions.offsets.tolist()
        for row, (state, start) in enumerate(zip(states, starts, strict=True)):
            accepted[row, [offset - start for offset in self._offsets[_key(state)]]] = True
        return accepted


def _key(state: SequenceState) -> tuple[int, int, int]:
    return state.request, state.block, state.block_step
