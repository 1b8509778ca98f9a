"""The decoding policy of this experiment: what it changes, and why, in a few lines.

A policy may decide which pass comes next (`next_pass`), what happens to a span of layers
(`span_actions`), and which positions are committed (`accept`); see fastdllm/policy.py. What it does
not override is plain Fast-dLLM v2. Which configs are then one computation it may say in
`computation` (experiments/README.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from fastdllm.policy import Policy, Predictions, SequenceState
from fastdllm.validation import StrictModel

if TYPE_CHECKING:
    from torch import Tensor


class MyPolicy(Policy):
    """An example: ask for a little more than the threshold."""

    class Parameters(StrictModel):
        """What the grid may set, besides the decoding settings."""

        margin: float = Field(
            0.0, ge=0.0, le=1.0, description="Added to the threshold before a token is committed."
        )

    def accept(self, predictions: Predictions, states: Sequence[SequenceState]) -> Tensor:
        """Commit what exceeds threshold + margin, and the most confident token in any case."""
        return self.accepted_above(self.settings.threshold + self.parameters.margin, predictions)
