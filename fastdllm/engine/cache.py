"""Keys and values of the sequences in flight: one preallocated buffer per layer, never copied.

A sequence owns one contiguous extent of positions from its admission to its end. The head of the
extent is the prefix cache; the rows of the current block follow it and are the block
cache: a full-block pass writes them all, a sub-block pass overwrites its own in place, a commit
makes them part of the prefix. Knows nothing of tokens or policies.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastdllm.model.config import ModelConfig

CACHE_LINE = 64


class KVCache:
    """`capacity` positions, allocated in extents, and one after them for padding rows.

    buffers: [layers, capacity + 1, 2 kv_heads d], keys before values. rows: the same memory by
    layer; layers: by layer and head, [capacity + 1, 2 kv_heads, d].
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        capacity: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.capacity = self.scratch = capacity
        width = 2 * config.num_kv_heads * config.head_dim
        # Positions a power of two apart would compete for a few lines of a CPU's cache: add a line.
        spare = CACHE_LINE // dtype.itemsize if device.type == "cpu" else 0
        shape = (config.num_layers, capacity + 1, width + spare)
        # Zeros, not empty: a masked position has weight 0, and 0 times a stray NaN is NaN.
        self.buffers = torch.zeros(shape, device=device, dtype=dtype)[..., :width]
        self.rows = self.buffers.unbind(0)
        self.layers = self.buffers.unflatten(2, (2 * config.num_kv_heads, -1)).unbind(0)
        self.clear(capacity)

    @property
    def bytes(self) -> int:
        """Memory of the buffers."""
        return sum(layer.nbytes for layer in self.layers)

    def clear(self, room: int) -> None:
        """Release all extents; from now on, extents share the first `room` positions."""
        self._free: list[tuple[int, int]] = [(0, room)]

    def allocate(self, length: int) -> int | None:
        """Return the start of the first free extent of `length` positions; None if none fits."""
        for index, (start, size) in enumerate(self._free):
            if size >= length:
                self._free[index : index + 1] = (
                    [(start + length, size - length)] if size > length else []
                )
                return start
        return None

    def release(self, start: int, length: int) -> None:
        """Free an extent."""
        spans = sorted([*self._free, (start, length)])
        merged = [spans[0]]
        for begin, size in spans[1:]:
            last, last_size = merged[-1]
            if last + last_size == begin:
                merged[-1] = (last, last_size + size)
            else:
                merged.append((begin, size))
        self._free = merged

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of an extent to another that does not overlap it."""
        for layer in self.layers:
            layer[target : target + length] = layer[source : source + length]

    def save(self, start: int, length: int) -> Tensor:
        """Copy the first `length` positions of an extent to host memory: [layers, ...]."""
        return torch.stack([layer[start : start + length].cpu() for layer in self.layers])

    def restore(self, start: int, saved: Tensor) -> None:
        """Write what `save` returned to another extent."""
        for layer, rows in zip(self.layers, saved, strict=True):
            layer[start : start + saved.shape[1]] = rows


def bytes_per_position(config: ModelConfig, dtype: torch.dtype) -> int:
    """Return the cache memory of one position in all layers, in bytes."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * dtype.itemsize
