"""The decoding policy of 01_adaptive_skip: a span of layers is skipped while little has changed.

On a sub-block pass the layers before and after the span run, and the span's output is its fresh
input plus the difference that it made when it was last computed (delta reuse). Whether a sequence
computes the span is decided anew in each pass, by one of three signals:

input_change       the relative change ||h - h*|| / ||h*|| of the span's input at masked positions
                   since the span was last computed: above tau_skip it is computed
tokens_committed   the tokens committed since then: above tau_skip it is computed
lowest_confidence  of the tokens that the previous pass committed: below tau_skip it is computed

In any case it is computed at least every reuse_k-th step. Full-block passes, which include the
first of a block, prefill and commits always run every layer.

Frozen once results are published with it. Another idea belongs in another experiment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

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


class AdaptiveSkip(Policy):
    """Delta reuse of one span, recomputed when a measured signal says so."""

    class Parameters(StrictModel):
        """What the grid may set, besides the decoding settings."""

        tau_skip: float = Field(0.1, ge=0.0, description="Limit of the signal.")
        signal: Literal["input_change", "tokens_committed", "lowest_confidence"] = Field(
            "input_change", description="What decides whether the span is computed."
        )

    parameters: Parameters

    def __init__(self, settings: DecodingSettings, parameters: Parameters, num_layers: int) -> None:
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
        """Add the stored delta where the signal and the cap allow it."""
        calm = self._calm(states, signals)
        return [
            SpanAction.ADD_DELTA
            if is_calm and state.passes_since_compute + 1 < self.settings.reuse_k
            else SpanAction.COMPUTE
            for is_calm, state in zip(calm, states, strict=True)
        ]

    def _calm(self, states: Sequence[SequenceState], signals: SpanSignals) -> list[bool]:
        limit = self.parameters.tau_skip
        if self.parameters.signal == "input_change":
            return [change <= limit for change in signals.input_change()]
        if self.parameters.signal == "tokens_committed":
            return [state.committed_since_compute <= limit for state in states]
        return [
            state.lowest_confidence is not None and state.lowest_confidence >= limit
            for state in states
        ]
