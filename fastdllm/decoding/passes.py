"""One forward pass over segments of any number of sequences, with a policy's spans of layers.

Runs the layers range by range, and reads only the logits that are needed. Chooses nothing itself:
the scheduler says which pass, the policy which spans.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastdllm.decoding.rules import chosen_actions
from fastdllm.decoding.spans import SpanSignalsOfPass, SpanStores
from fastdllm.decoding.work import Work, by_policy
from fastdllm.engine.batch import Segment
from fastdllm.engine.engines import Engine, OpenPass
from fastdllm.model.fused import FusedModel
from fastdllm.policy import LayerRange, PassKind, Policy, SpanAction


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
        # If a span contains the last layer, its output is stored for all rows.
        self.only_read = all(stop < self.num_layers for _, stop in policy.layer_spans)

    def run(self, works: Sequence[Work], segments: Sequence[Segment]) -> Tensor:
        """Run one pass and return the logits of the rows that are read, [M, V] float32.

        segments: those of `works`, in the same order.

        Sets `layers_skipped` of each work. Writes only to the cache, where a repetition would write
        the same again; so a pass that ran out of memory can be repeated. Call `finish` after one
        that succeeded.
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
        """Store inputs and outputs of a pass's spans, once its tokens are known."""
        self.spans.keep()
        for work in works:
            if work.kind is PassKind.COMMIT:
                self.spans.drop(work.sequence.slot)

    def _run_span(
        self, span: LayerRange, hidden: Tensor, works: Sequence[Work], opened: OpenPass
    ) -> tuple[Tensor, list[int]]:
        """Apply the policy's actions to one span; also return the works it was not computed for."""
        places = self.spans.places(works)
        reused: dict[int, SpanAction] = {}
        inputs = hidden
        for policy, group in by_policy(works):
            indices = [i for i in group if works[i].kind is PassKind.SUB_BLOCK]
            if not indices:
                continue
            sub_blocks = [works[i] for i in indices]
            signals = SpanSignalsOfPass(
                self.spans, span, hidden, sub_blocks, [places[i] for i in indices]
            )
            states = [work.state for work in sub_blocks if work.state is not None]
            actions = chosen_actions(policy, span, states, signals)
            pairs = zip(indices, actions, strict=True)
            reused |= {i: action for i, action in pairs if action is not SpanAction.COMPUTE}
        if reused:
            hidden = hidden.clone()
            for index, action in reused.items():
                place = places[index]
                hidden[place.rows] = self.spans.value(span, action, inputs, place)
            computing = [i for i in range(len(works)) if i not in reused]
            if computing:
                parts = [torch.arange(places[i].rows.start, places[i].rows.stop) for i in computing]
                rows = torch.cat(parts).to(hidden.device)
                segments = [s for i in computing for s in works[i].segments()]
                part = self.engine.open(segments, part=True)
                hidden[rows] = part.layers(inputs[rows], *span)
        else:
            hidden = opened.layers(hidden, *span)
        for index, work in enumerate(works):
            if work.denoises and index not in reused:
                self.spans.remember(span, inputs, hidden, places[index])
        return hidden, list(reused)


def _run(
    opened: OpenPass, hidden: Tensor, start: int, stop: int, *, only_read: bool = False
) -> Tensor:
    return opened.layers(hidden, start, stop, only_read=only_read) if start < stop else hidden
