"""The decoding policy of 05_confirm: the decoder's own look-ahead, and plain Fast-dLLM v2.

Frozen once results are published with it. Another idea belongs in another experiment.
"""

from fastdllm.policy import PLAIN, Computation, Policy
from fastdllm.settings import DecodingSettings
from fastdllm.validation import StrictModel


class Confirmed(Policy):
    """Fast-dLLM v2; the grid sets look-ahead, sub-blocks and thresholds."""

    @classmethod
    def computation(cls, settings: DecodingSettings, parameters: StrictModel) -> Computation:
        """Nothing is overridden."""
        return PLAIN
