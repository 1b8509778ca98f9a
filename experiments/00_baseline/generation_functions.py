"""The decoding policy of 00_baseline: published layer reuse, in output mode.

A counter runs over the denoising passes of a block: 0 at its first pass, plus one per pass, reused
ones included; a new sub-block does not reset it. A sub-block pass at a counter that reuse_k does
not divide is reused: it commits from the logits of the last computed pass and runs no layer.
Patching a span of layers to repeat its last output gives the same logits, whichever span it is,
because the layers after the span then see what they saw before (README.md). Prefill, full-block
passes and commits always run.

Frozen: results were published with it. Another idea belongs in another experiment.
"""

from fastdllm.policy import PLAIN, Computation, PassKind, Policy, SequenceState
from fastdllm.settings import DecodingSettings
from fastdllm.validation import StrictModel


class LayerReuse(Policy):
    """Plain Fast-dLLM v2, where all but every reuse_k-th pass of a block may be reused."""

    keeps_logits = True

    @classmethod
    def computation(cls, settings: DecodingSettings, parameters: StrictModel) -> Computation:
        """With reuse_k 1 every pass is computed; else the span does not matter."""
        return PLAIN if settings.reuse_k == 1 else Computation(ignored=frozenset({"layer_subset"}))

    def next_pass(self, state: SequenceState) -> PassKind:
        """The published next pass, or a reused one in place of a sub-block pass."""
        kind = super().next_pass(state)
        is_recompute = state.block_step % self.settings.reuse_k == 0
        if kind is PassKind.SUB_BLOCK and not is_recompute:
            return PassKind.REUSED
        return kind
