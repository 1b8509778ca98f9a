"""Models on the engine of fixed shapes, as a GPU has it, on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from fastdllm.engine.cache import KVCache
from fastdllm.engine.static import Record, StaticEngine, run_directly
from fastdllm.engine.static_attention import PaddedAttention, StaticAttention
from fastdllm.model.fused import FusedModel
from fastdllm.model.plain import BlockDiffusionModel

aten = torch.ops.aten
# A CUDA graph holds none of these: their results are values of the host.
READ_BY_THE_HOST = {aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default}


class Tape(TorchDispatchMode):
    """The operations of one call in order, each with its arguments and its result."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[Any, tuple, dict, Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        assert func not in READ_BY_THE_HOST, f"{func} cannot be recorded"
        result = func(*args, **(kwargs or {}))
        self.steps.append((func, args, kwargs or {}, result))
        return result

    def play(self, result: Any) -> Any:
        """Repeat the operations on what the buffers hold now; return what became of `result`."""
        # The recorded tensors live as long as the tape, so their ids stay unique.
        now: dict[int, Tensor] = {}

        def current(value: Any) -> Any:
            return now.get(id(value), value)

        for func, args, kwargs, recorded in self.steps:
            outputs = func(*tree_map(current, args), **tree_map(current, kwargs))
            for old, new in zip(tree_leaves(recorded), tree_leaves(outputs), strict=True):
                now[id(old)] = new
        return current(result)


def traced(forward: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Record the operations of one call, with every value of the host burnt in.

    As with a CUDA graph, a replay repeats them on what the buffers hold by then: a program that
    depended on the first pass's lengths or rows would give the first pass's results forever.
    """
    with Tape() as tape:
        result = forward()
    return lambda: tape.play(result)


def on_fixed_shapes(
    model: BlockDiffusionModel,
    record: Record = run_directly,
    attention: type[StaticAttention] = PaddedAttention,
) -> FusedModel:
    """The model on a `StaticEngine`."""

    def make(fused: FusedModel, capacity: int) -> StaticEngine:
        cache = KVCache(fused.config, capacity=capacity, device=fused.device, dtype=fused.dtype)
        return StaticEngine(fused, cache, attention=attention, record=record)

    return FusedModel(model, make_engine=make)


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: Tensor,
    starts: Tensor,
    most_queries: int,
    most_keys: int,
    *,
    enable_gqa: bool,
    seqused_k: Tensor,
) -> Tensor:
    """What the GPU kernel of this name computes, and what it demands of its arguments."""
    count = len(bounds) - 1
    assert bounds.dtype == starts.dtype == seqused_k.dtype == torch.int32
    assert starts.shape == (count + 1,)
    assert seqused_k.shape == (count,)
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
    out = torch.full(query.shape, torch.nan, dtype=query.dtype)
    for n in range(count):
        first, last = int(bounds[n]), int(bounds[n + 1])
        seen = slice(int(starts[n]), int(starts[n]) + int(seqused_k[n]))
        assert 0 <= last - first <= most_queries
        assert 0 < int(seqused_k[n]) <= most_keys
        if first < last:
            mixed = F.scaled_dot_product_attention(
                query[None, first:last].transpose(1, 2),
                key[None, seen].transpose(1, 2),
                value[None, seen].transpose(1, 2),
                enable_gqa=enable_gqa,
            )
            out[first:last] = mixed[0].transpose(0, 1)
    assert not out.isnan().any(), "rows that belong to no segment"
    return out
