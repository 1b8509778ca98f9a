"""The decoding policy of 04_lookahead: the decoder's own look-ahead, alone or with delta reuse.

Look-ahead is a setting of the decoder (lookahead_depth, lookahead_threshold): when all positions
before a sub-block ahead are known, its tokens above lookahead_threshold are committed from the same
logits, at no cost. With reuse_k above 1 the span layer_subset is computed only at every reuse_k-th
denoising pass of a block; on the sub-block passes between, its stored delta is added, as in
02_delta_reuse. Full-block passes, prefill and commits always run every layer.

Frozen once results are published with it. Another idea belongs in another experiment.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastdllm.policy import (
    PLAIN,
    Computation,
    LayerRange,
    Policy,
    SequenceState,
    SpanAction,
    SpanSignals,
)
from fastdllm.settings import DecodingSettings, layer_span
from fastdllm.validation import StrictModel


class LookAhead(Policy):
    """Fast-dLLM v2 with look-ahead, and a span whose change may be repeated between passes."""

    def __init__(
        self, settings: DecodingSettings, parameters: StrictModel, num_layers: int
    ) -> None:
        super().__init__(settings, parameters, num_layers)
        if settings.reuse_k > 1 and settings.layer_subset is not None:
            self.layer_spans = (layer_span(settings.layer_subset, num_layers),)

    @classmethod
    def computation(cls, settings: DecodingSettings, parameters: StrictModel) -> Computation:
        """With reuse_k 1 every pass is computed."""
        return PLAIN if settings.reuse_k == 1 else Computation()

    def span_actions(
        self, span: LayerRange, states: Sequence[SequenceState], signals: SpanSignals
    ) -> list[SpanAction]:
        """Compute at every reuse_k-th denoising pass of the block, else add the stored delta."""
        return [
            SpanAction.ADD_DELTA if state.block_step % self.settings.reuse_k else SpanAction.COMPUTE
            for state in states
        ]
