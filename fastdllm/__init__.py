"""fastdllm: experiments on block-diffusion language models, fast and trustworthily.

The public names load torch only when they are used, so that `fastdllm status` answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastdllm.version import __version__

if TYPE_CHECKING:
    from fastdllm.common.errors import UserError
    from fastdllm.decoding import Step, decode, generate
    from fastdllm.model.loading import load_model
    from fastdllm.policy import Policy
    from fastdllm.sequence import Generation, Request
    from fastdllm.settings import DecodingSettings
    from fastdllm.trace import PassCounts

_HOMES = {
    "DecodingSettings": "settings",
    "Generation": "sequence",
    "PassCounts": "trace",
    "Policy": "policy",
    "Request": "sequence",
    "Step": "decoding",
    "UserError": "common.errors",
    "decode": "decoding",
    "generate": "decoding",
    "load_model": "model.loading",
}

__all__ = [
    "DecodingSettings",
    "Generation",
    "PassCounts",
    "Policy",
    "Request",
    "Step",
    "UserError",
    "__version__",
    "decode",
    "generate",
    "load_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fastdllm' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fastdllm.{_HOMES[name]}"), name)
