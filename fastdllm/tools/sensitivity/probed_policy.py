"""The plain policy under observation: what each sub-block pass would commit with layers replaced.

Decides nothing itself: the tokens are those of the policy inside. Formulas: docs/sensitivity.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastdllm.model.fused import FusedModel
from fastdllm.policy import LayerRange, PassKind, Policy, Predictions, SequenceState
from fastdllm.tools.sensitivity.shadow_passes import Recorded, Recorder, replaced_predictions


@dataclass(frozen=True, slots=True)
class PassLog:
    """One sub-block pass of one sequence.

    step: denoising passes of the block before this one. masked: positions of the sub-block that
        are masked. committed_before, lowest_confidence: tokens that the previous pass of the block
        committed, and the lowest confidence among them.
    input_change, delta_change: per layer; NaN where the stored values are zero.
    changed: per span, whether replacing it changes what the pass commits.
    """

    request: int
    block: int
    sub_block: int
    step: int
    masked: int
    committed_before: int
    lowest_confidence: float | None
    input_change: tuple[float, ...]
    delta_change: tuple[float, ...]
    changed: tuple[bool, ...]


class ProbedPolicy(Policy):
    """Decides like `inner`, one sequence at a time, and reports each sub-block pass."""

    def __init__(
        self,
        inner: Policy,
        model: FusedModel,
        recorder: Recorder,
        spans: Sequence[LayerRange],
        *,
        mask_id: int,
        on_pass: Callable[[PassLog], None],
    ) -> None:
        """Wrap `inner`, which decodes on an engine of `recorder`; on_pass: called with each log."""
        super().__init__(inner.settings, inner.parameters, inner.num_layers)
        self.inner, self.model, self.recorder = inner, model, recorder
        self.spans, self.mask_id, self.on_pass = tuple(spans), mask_id, on_pass
        self._kind, self._window = PassKind.FULL_BLOCK, (0, 0)
        # [L + 1, block, H]: states of each position of the block at the last pass over it.
        self._stored: Tensor | None = None

    def next_pass(self, state: SequenceState) -> PassKind:
        """The pass that the policy inside asks for; it will be recorded."""
        self._kind = self.inner.next_pass(state)
        self.recorder.awaits = True
        return self._kind

    def window(self, state: SequenceState, kind: PassKind) -> tuple[int, int]:
        """The window of the policy inside."""
        self._window = self.inner.window(state, kind)
        return self._window

    def accept(self, predictions: Predictions, states: Sequence[SequenceState]) -> Tensor:
        """What the policy inside accepts; the replaced passes are only compared with it."""
        accepted = self.inner.accept(predictions, states)
        (state,), recorded = states, self.recorder.last
        assert recorded is not None
        first = recorded.segment.first % self.settings.block_size
        offsets = slice(first, first + recorded.segment.width)
        if self._kind is PassKind.SUB_BLOCK:
            self.on_pass(self._log(state, recorded, offsets, predictions, accepted))
        self._store(recorded, offsets)
        return accepted

    def _store(self, recorded: Recorded, offsets: slice) -> None:
        layers, _, hidden = recorded.states.shape
        if self._kind is PassKind.FULL_BLOCK:
            # States of an earlier block are dropped; the first pass of a block covers all of it.
            size = (layers, self.settings.block_size, hidden)
            self._stored = recorded.states.new_full(size, torch.nan)
        assert self._stored is not None
        self._stored[:, offsets] = recorded.states

    def _log(
        self,
        state: SequenceState,
        recorded: Recorded,
        offsets: slice,
        predictions: Predictions,
        accepted: Tensor,
    ) -> PassLog:
        assert self._stored is not None
        stored = self._stored[:, offsets]
        rows = torch.tensor(state.masked[offsets], device=stored.device)
        inputs, deltas = relative_changes(recorded.states[:, rows], stored[:, rows])
        read = recorded.segment.read[0]
        window = range(self._window[0], min(self._window[1], offsets.stop))
        replaced = replaced_predictions(
            self.model,
            recorded,
            stored,
            self.spans,
            plain=predictions,
            places=[max(p - 1 - offsets.start, 0) - read for p in window],
            mask_id=self.mask_id,
        )
        taken = self.inner.accept(replaced, [state] * len(self.spans))
        differs = (taken != accepted) | (accepted & (replaced.tokens != predictions.tokens))
        return PassLog(
            request=state.request,
            block=state.block,
            sub_block=state.sub_block,
            step=state.block_step,
            masked=int(rows.sum()),
            committed_before=state.committed_since_compute,
            lowest_confidence=state.lowest_confidence,
            input_change=inputs,
            delta_change=deltas,
            changed=tuple(differs.any(dim=-1).tolist()),
        )


def relative_changes(states: Tensor, stored: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """||h - h*|| / ||h*|| of each layer's input, and the same of its delta (output - input).

    Args:
        states, stored: [L + 1, R, H], now and when the layers last ran before; norms are taken over
            all rows together.
    """
    now, then = states.float(), stored.float()
    both = []
    for new, old in ((now[:-1], then[:-1]), (now.diff(dim=0), then.diff(dim=0))):
        ratio = (new - old).flatten(1).norm(dim=1) / old.flatten(1).norm(dim=1)
        both.append(tuple(ratio.nan_to_num(nan=torch.nan, posinf=torch.nan).tolist()))
    return both[0], both[1]
