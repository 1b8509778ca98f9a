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

from fastdllm.attention import SegmentAttention
from fastdllm.batch import FlatBatch, Segment
from fastdllm.cache import KVCache
from fastdllm.model.fused import FusedModel
from fastdllm.static import CudaGraphs, Record, StaticEngine
from fastdllm.static_attention import FlashAttention, PaddedAttention

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


class EagerEngine:
    """Each pass in its own shape, without any padding."""

    def __init__(self, model: FusedModel, cache: KVCache) -> None:
        self.model, self.cache = model, cache

    @property
    def recording_s(self) -> float:
        """Nothing is recorded."""
        return 0.0

    def open(self, segments: Sequence[Segment], *, part: bool = False) -> EagerPass:
        """Lay out the rows of a pass; a part of one is a pass like any other."""
        return EagerPass(self.model, self.cache, segments)


class EagerPass:
    """An `OpenPass` in its own shape."""

    def __init__(self, model: FusedModel, cache: KVCache, segments: Sequence[Segment]) -> None:
        self.model = model
        self.batch = FlatBatch(segments, model.device)
        self.rotation = model.rotations.index_select(0, self.batch.positions)
        self.attend = SegmentAttention(model.config, cache, self.batch)

    def embed(self) -> Tensor:
        """Hidden states [R, H] of the pass's tokens."""
        return self.model.embed(self.batch.tokens)

    def layers(self, hidden: Tensor, start: int, stop: int, *, only_read: bool = False) -> Tensor:
        """Run layers `start` <= i < `stop` on [R, H]; with `only_read` return [M, H]."""
        return self.model.run_layers(
            hidden,
            start,
            stop,
            rotation=self.rotation,
            attend=self.attend,
            only_read=only_read,
        )

    def read_rows(self, x: Tensor) -> Tensor:
        """The rows of `x` [R, ...] whose logits are read, [M, ...]."""
        return self.attend.read_rows(x)


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
