"""How a pass runs its layers: as it comes, or at fixed shapes that can be recorded once.

Both give the same hidden states. A CPU runs each pass in its own shape; on a GPU the time between
kernels would cost more than many a kernel, so passes are brought to a few fixed shapes and replayed
(static.py). Knows nothing of sequences or policies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from fastdllm.engine.batch import Segment
from fastdllm.engine.cache import KVCache
from fastdllm.engine.eager import EagerEngine
from fastdllm.engine.static import CudaGraphs, Record, StaticEngine
from fastdllm.engine.static_attention import FlashAttention, PaddedAttention
from fastdllm.model.fused import FusedModel

# FlashAttention needs NVIDIA Ampere (compute capability 8.0) or newer, and heads of at most 256
# numbers, in eights.
FLASH_CAPABILITY, FLASH_HEAD_DIM, FLASH_HEAD_UNIT = (8, 0), 256, 8


class OpenPass(Protocol):
    """One pass whose rows are laid out; R rows, M of which are read."""

    def embed(self) -> Tensor:
        """Hidden states [R, H] of the pass's tokens."""
        ...

    def layers(self, hidden: Tensor, start: int, stop: int, *, only_read: bool = False) -> Tensor:
        """Run layers `start` <= i < `stop` on [R, H]; with `only_read` return [M, H]."""
        ...

    def read_rows(self, x: Tensor) -> Tensor:
        """The rows of `x` [R, ...] whose logits are read, [M, ...]."""
        ...


class Engine(Protocol):
    """Runs passes against one cache.

    recording_s: seconds spent so far on recording shapes for their first use.
    """

    cache: KVCache

    @property
    def recording_s(self) -> float:
        """Seconds so far."""
        ...

    def open(self, segments: Sequence[Segment], *, part: bool = False) -> OpenPass:
        """Lay out the rows of a pass, or of a part of one that goes on being used meanwhile."""
        ...


def take_engine(model: FusedModel, capacity: int) -> Engine:
    """An engine with room for `capacity` positions: an idle one that is large enough, or a new one.

    Idle ones that are too small go, so that their memory is free for the new one.
    """
    fitting = [engine for engine in model.idle_engines if engine.cache.capacity >= capacity]
    if not fitting:
        drop_idle(model)
        return (model.make_engine or make_engine)(model, capacity)
    engine = min(fitting, key=lambda engine: engine.cache.capacity)
    model.idle_engines.clear()
    # No more room than asked for: who is in flight must not depend on what was decoded before.
    engine.cache.clear(capacity)
    return engine


def drop_idle(model: FusedModel) -> None:
    """Let go of idle engines, so that their memory is free."""
    model.idle_engines.clear()
    if model.device.type == "cuda":
        torch.cuda.empty_cache()


def give_back(model: FusedModel, engine: Engine) -> None:
    """Keep an engine for the next decoding."""
    model.idle_engines.append(engine)


def make_engine(model: FusedModel, capacity: int, record: Record | None = None) -> Engine:
    """The engine for the model's device.

    record: how a GPU keeps passes for replay; default: as CUDA graphs.
    """
    cache = KVCache(model.config, capacity=capacity, device=model.device, dtype=model.dtype)
    if model.device.type != "cuda":
        return EagerEngine(model, cache)
    attention = FlashAttention if can_flash(model) else PaddedAttention
    return StaticEngine(
        model, cache, attention=attention, record=record or CudaGraphs(model.device)
    )


def can_flash(model: FusedModel) -> bool:
    """Whether FlashAttention runs this model on its device."""
    return (
        model.dtype in (torch.bfloat16, torch.float16)
        and torch.cuda.get_device_capability(model.device) >= FLASH_CAPABILITY
        and model.config.head_dim <= FLASH_HEAD_DIM
        and model.config.head_dim % FLASH_HEAD_UNIT == 0
    )
