"""Engines, which run the layers of a pass: each in its own shape, or at fixed shapes.

Both give the same hidden states. A CPU runs each pass in its own shape (eager.py); on a GPU the
launches would often cost more than the kernels, so passes are padded to a few fixed shapes, which
are recorded once and replayed (static.py). Knows nothing of sequences or policies.
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
    """Runs passes on one cache."""

    cache: KVCache

    @property
    def recording_s(self) -> float:
        """Seconds spent so far on recording shapes for their first use."""
        ...

    def open(self, segments: Sequence[Segment], *, part: bool = False) -> OpenPass:
        """Lay out the rows of a pass; `part`: of a part of the last one, which stays in use."""
        ...


def take_engine(model: FusedModel, capacity: int) -> Engine:
    """Return an engine for `capacity` positions: an idle one that is large enough, or a new one.

    Before a new one is made, idle ones are dropped, so that their memory is free.
    """
    fitting = [engine for engine in model.idle_engines if engine.cache.capacity >= capacity]
    if not fitting:
        drop_idle(model)
        return (model.make_engine or make_engine)(model, capacity)
    engine = min(fitting, key=lambda engine: engine.cache.capacity)
    model.idle_engines.clear()
    # Not all of its room: which sequences share a pass must not depend on earlier decodings.
    engine.cache.clear(capacity)
    return engine


def drop_idle(model: FusedModel) -> None:
    """Drop idle engines, and free their memory."""
    model.idle_engines.clear()
    if model.device.type == "cuda":
        torch.cuda.empty_cache()


def give_back(model: FusedModel, engine: Engine) -> None:
    """Keep an engine for the next decoding."""
    model.idle_engines.append(engine)


def make_engine(model: FusedModel, capacity: int, record: Record | None = None) -> Engine:
    """Make the engine for the model's device.

    record: how a GPU records passes; default: as CUDA graphs.
    """
    cache = KVCache(model.config, capacity=capacity, device=model.device, dtype=model.dtype)
    if model.device.type != "cuda":
        return EagerEngine(model, cache)
    attention = FlashAttention if can_flash(model) else PaddedAttention
    return StaticEngine(
        model, cache, attention=attention, record=record or CudaGraphs(model.device)
    )


def can_flash(model: FusedModel) -> bool:
    """Whether FlashAttention runs this model on its device, with this torch."""
    return (
        model.dtype in (torch.bfloat16, torch.float16)
        and FlashAttention.is_offered()
        and torch.cuda.get_device_capability(model.device) >= FLASH_CAPABILITY
        and model.config.head_dim <= FLASH_HEAD_DIM
        and model.config.head_dim % FLASH_HEAD_UNIT == 0
    )
