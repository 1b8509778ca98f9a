"""Stored inputs and outputs of the spans of layers that a policy may reuse, and its signals.

Addressed by slot and offset in the block; valid from the computation of the span until the block is
committed. Decides nothing: the policy says what to reuse, passes.py when.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastdllm.decoding.rules import violation
from fastdllm.policy import LayerRange, Policy, SpanAction

if TYPE_CHECKING:
    from fastdllm.decoding.work import Work


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one work's rows are: in the pass, and in the stores (slot, block offsets)."""

    rows: slice
    slot: int
    offsets: slice


class SpanStores:
    """Input and output [slots, block, H] of each span, and which of them are valid."""

    def __init__(
        self,
        policy: Policy,
        *,
        slots: int,
        block_size: int,
        hidden_size: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.policy = policy
        shape = (slots, block_size, hidden_size)
        self.inputs, self.outputs = (
            {span: torch.zeros(shape, device=device, dtype=dtype) for span in policy.layer_spans}
            for _ in range(2)
        )
        # On the host: validity is decided by which passes ran, never by values.
        self.valid = {span: torch.zeros(shape[:2], dtype=torch.bool) for span in policy.layer_spans}
        self._pending: list[tuple[LayerRange, Tensor, Tensor, Placement]] = []

    def places(self, works: Sequence[Work]) -> list[Placement]:
        """Return the placements of the works of a pass, in order."""
        placements, row = [], 0
        for work in works:
            offsets = slice(work.offset, work.offset + work.width)
            placements.append(Placement(slice(row, row + work.width), work.sequence.slot, offsets))
            row += work.width
        return placements

    def value(
        self, span: LayerRange, action: SpanAction, hidden: Tensor, place: Placement
    ) -> Tensor:
        """Return the substitute for the span's output at `place`, given its input `hidden` [R, H].

        Raises:
            PolicyViolation: the span was not computed for these positions in this block.
        """
        where = (place.slot, place.offsets)
        if not bool(self.valid[span][where].all()):
            raise violation(
                self.policy,
                f"asked to {action} layers {span[0]} to {span[1] - 1}, "
                "which this block has not computed yet",
            )
        output = self.outputs[span][where]
        if action is SpanAction.ADD_DELTA:
            return hidden[place.rows] + (output - self.inputs[span][where])
        return output

    def remember(self, span: LayerRange, inputs: Tensor, outputs: Tensor, place: Placement) -> None:
        """Take note of input and output [R, H] of a computed span; `keep` stores them."""
        self._pending.append((span, inputs[place.rows], outputs[place.rows], place))

    def keep(self) -> None:
        """Store what was noted, once the pass has succeeded."""
        for span, inputs, outputs, place in self._pending:
            where = (place.slot, place.offsets)
            self.inputs[span][where] = inputs
            self.outputs[span][where] = outputs
            self.valid[span][where] = True
        self.forget()

    def forget(self) -> None:
        """Drop what was noted by a pass that failed."""
        self._pending = []

    def drop(self, slot: int) -> None:
        """Invalidate what is stored for a slot, whose block or sequence has ended."""
        for valid in self.valid.values():
            valid[slot] = False

    def save(self, slot: int) -> list[Tensor]:
        """Copy what is stored for a slot to host memory."""
        stores = (self.inputs, self.outputs, self.valid)
        return [tensor[slot].to("cpu", copy=True) for s in stores for tensor in s.values()]

    def restore(self, slot: int, saved: Sequence[Tensor]) -> None:
        """Write what `save` returned to another slot."""
        tensors = [t for s in (self.inputs, self.outputs, self.valid) for t in s.values()]
        for tensor, rows in zip(tensors, saved, strict=True):
            tensor[slot] = rows


class SpanSignalsOfPass:
    """The `SpanSignals` of policy.py, computed only when a policy asks."""

    def __init__(
        self,
        stores: SpanStores,
        span: LayerRange,
        hidden: Tensor,
        works: Sequence[Work],
        places: Sequence[Placement],
    ) -> None:
        self.stores, self.span, self.hidden = stores, span, hidden
        self.works, self.places = works, places

    def input_change(self) -> list[float]:
        """Relative change of the span's input at masked positions since the last recompute."""
        changes = []
        for work, place in zip(self.works, self.places, strict=True):
            where = (place.slot, place.offsets)
            if not bool(self.stores.valid[self.span][where].all()):
                changes.append(torch.tensor(torch.inf, device=self.hidden.device))
                continue
            masked = torch.tensor(work.sequence.masked[place.offsets], device=self.hidden.device)
            stored = self.stores.inputs[self.span][where][masked].float()
            change = (self.hidden[place.rows][masked].float() - stored).norm()
            changes.append(change / stored.norm())
        measured = torch.stack(changes).tolist()
        for work, change in zip(self.works, measured, strict=True):
            work.input_changes.append(change)
        return measured
