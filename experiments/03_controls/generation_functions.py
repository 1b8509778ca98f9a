"""The decoding policy of 03_controls: plain Fast-dLLM v2, nothing added.

Frozen once results are published with it. Another idea belongs in another experiment.
"""

from fastdllm.policy import PLAIN, Computation, Policy
from fastdllm.settings import DecodingSettings
from fastdllm.validation import StrictModel


class Controls(Policy):
    """Plain Fast-dLLM v2; the grid sets thresholds, sub-blocks and the block cache."""

    @classmethod
    def computation(cls, settings: DecodingSettings, parameters: StrictModel) -> Computation:
        """Nothing is overridden."""
        return PLAIN
