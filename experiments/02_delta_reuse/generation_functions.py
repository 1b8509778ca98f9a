"""The decoding policy of 02_delta_reuse: a span of layers is computed every k-th denoising step.

A counter runs over the denoising passes of a block, as in 00_baseline. On a sub-block pass at a
counter that reuse_k does not divide, the layers before and after the span run, and the span's
output is its fresh input plus the difference that it made when it was last computed:
h + (output* - input*). Other than a repeated output, this depends on the span, and later layers see
what has changed. Full-block passes, prefill and commits always run every layer.

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


class DeltaReuse(Policy):
    """Plain Fast-dLLM v2 with a span whose change is repeated between two computed passes."""

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
