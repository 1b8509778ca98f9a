"""fastdllm: experiments on block-diffusion language models, fast and trustworthy.

The public names load torch only when they are used, so that `fastdllm status` answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastdllm.version import __version__

if TYPE_CHECKING:
    from fastdllm.common.errors import UserError
    from fastdllm.decoding.loop import Step, decode, generate
    from fastdllm.decoding.sequence import Generation, PassCounts, Request
    from fastdllm.model.loading import load_model
    from fastdllm.policy import Policy
    from fastdllm.records.frames import results
    from fastdllm.settings import DecodingSettings
    from fastdllm.single.calls import evaluate

_HOMES = {
    "DecodingSettings": "settings",
    "Generation": "decoding.sequence",
    "PassCounts": "decoding.sequence",
    "Policy": "policy",
    "Request": "decoding.sequence",
    "Step": "decoding.outcomes",
    "UserError": "common.errors",
    "decode": "decoding.loop",
    "evaluate": "single.calls",
    "generate": "decoding.loop",
    "load_model": "model.loading",
    "results": "records.frames",
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
    "evaluate",
    "generate",
    "load_model",
    "results",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fastdllm' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fastdllm.{_HOMES[name]}"), name)
