"""The built-in policy as a file, as which every run has one."""

from __future__ import annotations

from fastdllm.policy import Computation, OutputReuse
from fastdllm.settings import DecodingSettings
from fastdllm.validation import StrictModel


class BuiltIn(OutputReuse):
    """Plain Fast-dLLM v2; with reuse_k above 1, layer reuse in output mode."""

    @classmethod
    def computation(cls, settings: DecodingSettings, parameters: StrictModel) -> Computation:
        """As of the class that it is."""
        return super().computation(settings, parameters)
