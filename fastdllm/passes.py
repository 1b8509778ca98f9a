"""One forward pass over segments of any number of sequences, with a policy's spans of layers.

Turns work into flat rows, walks the layers range by range, and reads only the logits that are asked
for. Chooses nothing itself: `decoding.py` says which pass, the policy which spans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastdllm.engine.batch import Segment
from fastdllm.engine.engines import Engine, OpenPass
from fastdllm.model.fused import FusedModel
from fastdllm.policy import LayerRange, PassKind, Policy, SequenceState, SpanAction
from fastdllm.proposals import Window, chosen_actions
from fastdllm.sequence import DecodedSequence
from fastdllm.spans import SpanSignalsOfPass, SpanStores


@dataclass(slots=True)
class Work:
    """What one sequence does in one pass.

    kind: prefill, commit, full_block or sub_block. state, window: of denoising passes only; window
    is the half-open range of block offsets to predict. blocks: of a prefill, the half-open range of
    its blocks. read: rows of the last segment whose logits are read. input_changes: of the spans
    that the policy looked at, in order (`SpanSignals.input_change`).
    """

    sequence: DecodedSequence
    kind: PassKind
    state: SequenceState | None = None
    window: Window = (0, 0)
    blocks: tuple[int, int] = (0, 0)
    read: tuple[int, int] = (0, 0)
    layers_skipped: int = 0
    input_changes: list[float] = field(default_factory=list)

    @property
    def is_sampled(self) -> bool:
        """Whether its tokens are drawn, not the most likely ones."""
        return self.denoises and self.sequence.temperature > 0

    @property
    def denoises(self) -> bool:
        """Whether a policy chooses what is committed."""
        return self.state is not None

    def segments(self) -> list[Segment]:
        """The rows that this work brings to the pass."""
        sequence = self.sequence
        size = sequence.block_size
        if self.kind is PassKind.PREFILL:
            last = self.blocks[1] - 1
            return [
                Segment(
                    sequence.cache_start,
                    block * size,
                    sequence.tokens[block * size : (block + 1) * size],
                    visible=(block + 1) * size,
                    read=self.read if block == last else (0, 0),
                )
                for block in range(*self.blocks)
            ]
        first, rows = self.offset, self.width
        return [
            Segment(
                sequence.cache_start,
                sequence.block_start + first,
                sequence.block_tokens[first : first + rows],
                visible=sequence.block_start + size,
                read=self.read,
            )
        ]

    @property
    def offset(self) -> int:
        """Block offset of the first row; of a pass over the current block."""
        if self.kind is PassKind.SUB_BLOCK and self.state is not None:
            return self.state.sub_block * self.sequence.small_block_size
        return 0

    @property
    def width(self) -> int:
        """Number of rows."""
        if self.kind is PassKind.PREFILL:
            return (self.blocks[1] - self.blocks[0]) * self.sequence.block_size
        if self.kind is PassKind.SUB_BLOCK:
            return self.sequence.small_block_size
        return self.sequence.block_size

    @property
    def computed_window(self) -> Window:
        """What of `window` the rows of this pass predict; they are the first of it.

        A sub-block pass runs one sub-block only; what is ahead of it was predicted before.
        """
        if self.kind is PassKind.SUB_BLOCK:
            return self.window[0], min(self.window[1], self.offset + self.width)
        return self.window

    def row_of(self, position: int) -> int:
        """Which of the rows read predicts block offset `position`.

        Token shift: the row of offset p predicts p + 1; the first row stands in for itself.
        """
        return max(position - 1 - self.offset, 0) - self.read[0]


class PassRunner:
    """Runs passes on one engine; owns the stored values of a policy's spans."""

    def __init__(
        self, model: FusedModel, *, policy: Policy, engine: Engine, slots: int, block_size: int
    ) -> None:
        self.model, self.policy, self.engine = model, policy, engine
        self.num_layers = model.config.num_layers
        self.spans = SpanStores(
            policy,
            slots=slots,
            block_size=block_size,
            hidden_size=model.config.hidden_size,
            device=model.device,
            dtype=model.dtype,
        )
        # Where a span holds the last layer, its output is stored for all rows.
        self.only_read = all(stop < self.num_layers for _, stop in policy.layer_spans)

    def run(self, works: Sequence[Work], segments: Sequence[Segment]) -> Tensor:
        """Run one pass and return the logits of the rows that are read, [M, V] float32.

        segments: those of `works`, one work behind the other.

        Sets `layers_skipped` of each work. Writes nothing but the cache, and there only what a
        repetition would write again; so a pass that ran out of memory can be run again. `finish`
        is for when it did not.
        """
        self.spans.forget()
        opened = self.engine.open(segments)
        hidden = opened.embed()
        reached = 0
        skipped = [0] * len(works)
        for span in self.policy.layer_spans:
            hidden = _run(opened, hidden, reached, span[0])
            hidden, reused = self._run_span(span, hidden, works, opened)
            for index in reused:
                skipped[index] += span[1] - span[0]
            reached = span[1]
        hidden = _run(opened, hidden, reached, self.num_layers, only_read=self.only_read)
        logits = self.model.logits(hidden if self.only_read else opened.read_rows(hidden))
        for work, layers in zip(works, skipped, strict=True):
            work.layers_skipped = layers
        return logits

    def finish(self, works: Sequence[Work]) -> None:
        """Store what the spans of a pass gave, once its tokens are known."""
        self.spans.keep()
        for work in works:
            if work.kind is PassKind.COMMIT:
                self.spans.drop(work.sequence.slot)

    def _run_span(
        self, span: LayerRange, hidden: Tensor, works: Sequence[Work], opened: OpenPass
    ) -> tuple[Tensor, list[int]]:
        """Do with one span what the policy asks; also which works it was not computed for."""
        places = self.spans.places(works)
        reused, given = {}, hidden
        asked = [i for i, work in enumerate(works) if work.kind is PassKind.SUB_BLOCK]
        if asked:
            own = [works[i] for i in asked]
            signals = SpanSignalsOfPass(self.spans, span, hidden, own, [places[i] for i in asked])
            states = [work.state for work in own if work.state is not None]
            actions = chosen_actions(self.policy, span, states, signals)
            pairs = zip(asked, actions, strict=True)
            reused = {i: action for i, action in pairs if action is not SpanAction.COMPUTE}
        if reused:
            hidden = hidden.clone()
            for index, action in reused.items():
                place = places[index]
                hidden[place.rows] = self.spans.value(span, action, given, place)
            computing = [i for i in range(len(works)) if i not in reused]
            if computing:
                parts = [torch.arange(places[i].rows.start, places[i].rows.stop) for i in computing]
                rows = torch.cat(parts).to(hidden.device)
                segments = [s for i in computing for s in works[i].segments()]
                part = self.engine.open(segments, part=True)
                hidden[rows] = part.layers(given[rows], *span)
        else:
            hidden = opened.layers(hidden, *span)
        for index, work in enumerate(works):
            if work.denoises and index not in reused:
                self.spans.remember(span, given, hidden, places[index])
        return hidden, list(reused)


def _run(
    opened: OpenPass, hidden: Tensor, start: int, stop: int, *, only_read: bool = False
) -> Tensor:
    return opened.layers(hidden, start, stop, only_read=only_read) if start < stop else hidden
