"""Policies that several tests use: spans of layers that are reused on some passes."""

from __future__ import annotations

from collections.abc import Sequence

from fastdllm.policy import Policy, SpanAction
from fastdllm.settings import layer_span


class DeltaReuse(Policy):
    """Adds the span's stored delta on sub-block passes that reuse_k does not divide."""

    action = SpanAction.ADD_DELTA

    def __init__(self, settings, parameters, num_layers):
        super().__init__(settings, parameters, num_layers)
        self.layer_spans = (layer_span(settings.layer_subset, num_layers),)
        self.changes = []

    def span_actions(self, span, states, signals):
        self.changes += signals.input_change()
        return [
            self.action if state.block_step % self.settings.reuse_k else SpanAction.COMPUTE
            for state in states
        ]


class SpanOutputReuse(DeltaReuse):
    """Takes the span's stored output instead."""

    action = SpanAction.REUSE_OUTPUT


class StaggeredSpans(Policy):
    """Three spans with actions that differ from sequence to sequence and from pass to pass."""

    cycle: Sequence[SpanAction] = tuple(SpanAction)

    def __init__(self, settings, parameters, num_layers):
        super().__init__(settings, parameters, num_layers)
        self.layer_spans = ((0, 2), (2, 4), (num_layers - 2, num_layers - 1))

    def span_actions(self, span, states, signals):
        return [
            self.cycle[(state.block_step + sum(state.masked) + span[0] // 2) % 3]
            for state in states
        ]
