"""Models on the engine of fixed shapes, as a GPU has it, on a CPU."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from fastdllm.cache import KVCache
from fastdllm.fused import FusedModel
from fastdllm.model import BlockDiffusionModel
from fastdllm.static import Record, StaticEngine, run_directly
from fastdllm.static_attention import PaddedAttention


def traced(forward: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Record the operations of one call, with every value of the host burnt in.

    As with a CUDA graph, a replay repeats them on what the buffers hold by then: a program that
    depended on the first pass's lengths or rows would give the first pass's results for ever.
    """
    graph = make_fx(forward)()

    def replay() -> Tensor:
        return graph()

    return replay


def on_fixed_shapes(model: BlockDiffusionModel, record: Record = run_directly) -> FusedModel:
    """The model on a `StaticEngine`."""

    def make(fused: FusedModel, capacity: int) -> StaticEngine:
        cache = KVCache(fused.config, capacity=capacity, device=fused.device, dtype=fused.dtype)
        return StaticEngine(fused, cache, attention=PaddedAttention, record=record)

    return FusedModel(model, make_engine=make)
