"""One forward pass over sequences that need the same kind of pass, with a policy's spans.

Turns sequences into tensors, walks the layers range by range, and reads only the logits that are
asked for. Chooses nothing itself: `decoding.py` says which pass, the policy which spans.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastdllm.cache import CacheView, KVCache
from fastdllm.model import BlockDiffusionModel, block_causal_mask
from fastdllm.policy import LayerRange, PassKind, Policy, SequenceState, SpanAction
from fastdllm.proposals import chosen_actions, violation
from fastdllm.sequence import DecodedSequence
from fastdllm.settings import DecodingSettings


@dataclass(slots=True)
class SpanStore:
    """Input and output of one span of layers, by slot and offset in the block.

    inputs, outputs: [slots, block, H]; valid: bool [slots, block], False once a block is left.
    """

    inputs: Tensor
    outputs: Tensor
    valid: Tensor


class PassRunner:
    """Runs passes of one batch on one model; owns the caches and the stored span values."""

    def __init__(
        self,
        model: BlockDiffusionModel,
        *,
        policy: Policy,
        settings: DecodingSettings,
        slots: int,
        capacity: int,
    ) -> None:
        self.model = model
        self.policy = policy
        self.block_size = block_size = settings.block_size
        self.small_block_size = settings.small_block_size
        self.num_layers = model.config.num_layers
        self.cache = KVCache(
            model.config, slots=slots, capacity=capacity, device=model.device, dtype=model.dtype
        )
        shape = (slots, block_size, model.config.hidden_size)
        self.spans = {
            span: SpanStore(
                inputs=torch.zeros(shape, device=model.device, dtype=model.dtype),
                outputs=torch.zeros(shape, device=model.device, dtype=model.dtype),
                valid=torch.zeros(shape[:2], device=model.device, dtype=torch.bool),
            )
            for span in policy.layer_spans
        }

    def prefill(self, sequences: list[DecodedSequence]) -> Tensor:
        """Fill the prefix cache with the prompts' whole blocks; all have the same number of them.

        Returns the hidden state of the last row of each, [B, H].
        """
        length = sequences[0].block_start
        count = len(sequences)
        view = self.cache.view(
            [s.index for s in sequences],
            starts=[0] * count,
            width=length,
            visible=[length] * count,
        )
        mask = None
        if length > self.block_size:
            mask = block_causal_mask(length, self.block_size, self.model.device)
        hidden = self.model.embed(self._tensor([s.tokens[:length] for s in sequences]))
        hidden = self.model.run_layers(
            hidden, 0, self.num_layers, positions=view.positions[0], cache=view, mask=mask
        )
        return hidden[:, -1]

    def commit(self, sequences: list[DecodedSequence]) -> Tensor:
        """Run the final tokens of each current block, so that they join the prefix cache.

        Returns the hidden state of the last row of each, [B, H].
        """
        view, hidden = self._open_block_pass(sequences, [0] * len(sequences), self.block_size)
        hidden = self._run(hidden, 0, self.num_layers, view)
        for store in self.spans.values():
            store.valid[view.slots] = False
        return hidden[:, -1]

    def denoise(
        self,
        kind: PassKind,
        sequences: list[DecodedSequence],
        states: list[SequenceState],
        windows: list[tuple[int, int]],
    ) -> tuple[Tensor, list[int]]:
        """Run a full-block or sub-block pass and read the logits that predict `windows`.

        Args:
            windows: per sequence the half-open range of block offsets to predict.

        Returns the logits [B, W, V], W the widest window (narrower ones repeat their last row), and
        how many layers each sequence skipped.
        """
        sub_block = kind is PassKind.SUB_BLOCK
        starts = [state.sub_block * self.small_block_size if sub_block else 0 for state in states]
        width = self.small_block_size if sub_block else self.block_size
        view, hidden = self._open_block_pass(sequences, starts, width)
        skipped = [0] * len(sequences)
        reached = 0
        for span in self.policy.layer_spans:
            hidden = self._run(hidden, reached, span[0], view)
            signals = StoredSpanSignals(self.spans[span], hidden, view, sequences, self.block_size)
            actions = [SpanAction.COMPUTE] * len(sequences)
            if sub_block:
                actions = chosen_actions(self.policy, span, states, signals)
            hidden, reused = self._run_span(span, actions, hidden, view)
            skipped = [n + (span[1] - span[0]) * r for n, r in zip(skipped, reused, strict=True)]
            reached = span[1]
        hidden = self._run(hidden, reached, self.num_layers, view)
        # Token shift: the row of position p predicts p + 1; the first row stands in for itself.
        longest = max(stop - start for start, stop in windows)
        rows = [
            [max(min(start + column, stop - 1) - first - 1, 0) for column in range(longest)]
            for (start, stop), first in zip(windows, starts, strict=True)
        ]
        batch = torch.arange(len(sequences), device=hidden.device)[:, None]
        return self.model.head(hidden[batch, self._tensor(rows)]), skipped

    def _open_block_pass(
        self, sequences: list[DecodedSequence], starts: list[int], width: int
    ) -> tuple[CacheView, Tensor]:
        """Cache view and embeddings of `width` rows from offset `starts` of each current block."""
        view = self.cache.view(
            [s.index for s in sequences],
            starts=[s.block_start + o for s, o in zip(sequences, starts, strict=True)],
            width=width,
            visible=[s.block_start + self.block_size for s in sequences],
        )
        rows = [s.block_tokens[o : o + width] for s, o in zip(sequences, starts, strict=True)]
        return view, self.model.embed(self._tensor(rows))

    def _run(self, hidden: Tensor, start: int, stop: int, view: CacheView) -> Tensor:
        if start == stop:
            return hidden
        return self.model.run_layers(
            hidden, start, stop, positions=view.positions, cache=view, mask=view.mask
        )

    def _run_span(
        self,
        span: LayerRange,
        actions: list[SpanAction],
        hidden: Tensor,
        view: CacheView,
    ) -> tuple[Tensor, list[bool]]:
        """Do with one span what is asked, per sequence; True where it was not computed."""
        store = self.spans[span]
        slots, offsets = view.slots[:, None], view.positions % self.block_size
        reused = [action is not SpanAction.COMPUTE for action in actions]
        result = hidden.clone()
        computing = torch.tensor([i for i, r in enumerate(reused) if not r], device=hidden.device)
        if len(computing):
            part = view if len(computing) == len(reused) else view.rows(computing)
            output = self._run(hidden[computing], *span, part)
            result[computing] = output
            store.inputs[slots[computing], offsets[computing]] = hidden[computing]
            store.outputs[slots[computing], offsets[computing]] = output
            store.valid[slots[computing], offsets[computing]] = True
        for row, action in enumerate(actions):
            if action is SpanAction.COMPUTE:
                continue
            where = (view.slots[row], offsets[row])
            if not bool(store.valid[where].all()):
                raise violation(
                    self.policy,
                    f"asked to {action} layers {span[0]} to {span[1] - 1}, "
                    "which this block has not computed yet",
                )
            output = store.outputs[where]
            if action is SpanAction.ADD_DELTA:
                output = hidden[row] + (output - store.inputs[where])
            result[row] = output
        return result, reused

    def _tensor(self, rows: list[list[int]]) -> Tensor:
        return torch.tensor(rows, device=self.model.device)


class StoredSpanSignals:
    """The `SpanSignals` of policy.py: computed only when a policy asks."""

    def __init__(
        self,
        store: SpanStore,
        hidden: Tensor,
        view: CacheView,
        sequences: list[DecodedSequence],
        block_size: int,
    ) -> None:
        self.store, self.hidden, self.view = store, hidden, view
        self.sequences, self.block_size = sequences, block_size

    def input_change(self) -> list[float]:
        """Relative change of the span's input at masked positions since the last recompute."""
        offsets = self.view.positions % self.block_size
        slots = self.view.slots[:, None]
        stored = self.store.inputs[slots, offsets].float()
        masked = torch.tensor([s.masked for s in self.sequences], device=self.hidden.device).gather(
            1, offsets
        )[..., None]
        change = ((self.hidden.float() - stored) * masked).flatten(1).norm(dim=1)
        size = (stored * masked).flatten(1).norm(dim=1)
        known = self.store.valid[slots, offsets].all(dim=1)
        return torch.where(known, change / size, torch.inf).tolist()
