"""Attention at fixed shapes: which rows belong together stands in tensors, not in the program.

Two kinds: FlashAttention over rows of different length, and plain scaled dot products over padded
segments for everything else (float32, GPUs before Ampere, a CPU in tests). Neither asks the device
anything on the host, so both can be recorded and replayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdllm.batch import Segment
from fastdllm.cache import KVCache
from fastdllm.model.config import ModelConfig

if TYPE_CHECKING:
    from fastdllm.static import PassShape


class StaticTables:
    """The whole numbers that describe a pass of R rows, N segments and M rows read.

    tokens, positions, write: [R] as in batch.py. place: [R], n * width + t for row t of segment n.
    read: [M], rows whose logits are read; read_place: [M], the same as place among those.
    starts, visible: [N], where a segment's positions begin in the cache, and how many it sees.
    bounds, read_bounds: [N + 1], first row (row read) of each segment, and the end.
    """

    def __init__(self, shape: PassShape, device: torch.device) -> None:
        self.shape = shape
        rows, read, segments = shape.rows, shape.read, shape.segments
        self.sizes = [rows] * 4 + [read] * 2 + [segments] * 2 + [segments + 1] * 2
        self._pinned = device.type == "cuda"
        self._device = torch.zeros(sum(self.sizes), dtype=torch.long, device=device)
        (
            self.tokens,
            self.positions,
            self.write,
            self.place,
            self.read,
            self.read_place,
            self.starts,
            self.visible,
            self.bounds,
            self.read_bounds,
        ) = self._device.split(self.sizes)

    def fill(self, segments: Sequence[Segment], *, scratch: int) -> None:
        """Describe `segments`; what is left over works on the position `scratch` of the cache."""
        shape, width = self.shape, self.shape.width
        tokens: list[int] = []
        positions: list[int] = []
        write: list[int] = []
        place: list[int] = []
        read: list[int] = []
        read_place: list[int] = []
        starts, visible, bounds, read_bounds = [], [], [0], [0]
        for n, segment in enumerate(segments):
            row = len(tokens)
            tokens.extend(segment.tokens)
            positions.extend(range(segment.first, segment.first + segment.width))
            first = segment.cache_start + segment.first
            write.extend(range(first, first + segment.width))
            place.extend(range(n * width, n * width + segment.width))
            count = segment.read[1] - segment.read[0]
            read.extend(range(row + segment.read[0], row + segment.read[1]))
            read_place.extend(range(n * width, n * width + count))
            starts.append(segment.cache_start)
            visible.append(segment.visible)
            bounds.append(len(tokens))
            read_bounds.append(len(read))
        spare, spare_read = shape.rows - len(tokens), shape.read - len(read)
        rest = shape.segments - len(segments)
        base = len(segments) * width
        starts += [scratch] * rest
        visible += [1] * rest
        tokens += [0] * spare
        positions += [0] * spare
        write += [scratch] * spare
        place += range(base, base + spare)
        read += [0] * spare_read
        read_place += range(base, base + spare_read)
        for n in range(1, rest + 1):
            bounds.append(min(shape.rows - spare + n * width, shape.rows))
            read_bounds.append(min(shape.read - spare_read + n * width, shape.read))
        parts = (tokens, positions, write, place, read, read_place)
        numbers = [*parts, starts, visible, bounds, read_bounds]
        # A buffer of its own each time: an earlier transfer may still be under way.
        host = torch.tensor([n for part in numbers for n in part], pin_memory=self._pinned)
        self._device.copy_(host, non_blocking=True)


class StaticAttention(Protocol):
    """`Attend` of fused.py at a fixed shape."""

    def prepare(self) -> None:
        """Work out, on the device, what all layers of a range share."""
        ...

    def __call__(self, layer: int, qkv: Tensor, *, only_read: bool) -> Tensor:
        """See `Attend`."""
        ...

    def read_rows(self, x: Tensor) -> Tensor:
        """The rows of `x` [R, ...] whose logits are read, [M, ...]."""
        ...


class _OnTables:
    """What both kinds share: keys and values go to the cache, queries come from the rows."""

    def __init__(self, config: ModelConfig, cache: KVCache, tables: StaticTables) -> None:
        self.kv_heads, self.heads = config.num_kv_heads, config.num_heads
        self.head_dim = config.head_dim
        self.cache, self.tables = cache, tables

    def __call__(self, layer: int, qkv: Tensor, *, only_read: bool) -> Tensor:
        width = self.heads * self.head_dim
        self.cache.rows[layer].index_copy_(0, self.tables.write, qkv[:, width:])
        query = qkv[:, :width].unflatten(1, (self.heads, self.head_dim))
        if only_read:
            query = self.read_rows(query)
        return self._mix(query, self.cache.layers[layer], only_read).flatten(1)

    def read_rows(self, x: Tensor) -> Tensor:
        """The rows of `x` [R, ...] whose logits are read, [M, ...]."""
        return x.index_select(0, self.tables.read)

    def _mix(self, query: Tensor, buffer: Tensor, only_read: bool) -> Tensor:
        raise NotImplementedError


class FlashAttention(_OnTables):
    """FlashAttention on rows of different length: half precision, Ampere and newer."""

    def __init__(self, config: ModelConfig, cache: KVCache, tables: StaticTables) -> None:
        super().__init__(config, cache, tables)
        # Brings torch's compiler along, whose import takes every process without a GPU a second.
        from torch.nn.attention.varlen import varlen_attn

        self._attend = varlen_attn

    def prepare(self) -> None:
        """Bring the tables into the kernel's own type."""
        tables = self.tables
        self._bounds = tables.bounds.to(torch.int32)
        self._read_bounds = tables.read_bounds.to(torch.int32)
        self._visible = tables.visible.to(torch.int32)
        # With the lengths given, the kernel takes from here only where each segment begins.
        self._starts = F.pad(tables.starts, (0, 1)).to(torch.int32)

    def _mix(self, query: Tensor, buffer: Tensor, only_read: bool) -> Tensor:
        shape = self.tables.shape
        out = self._attend(
            query,
            buffer[:, : self.kv_heads],
            buffer[:, self.kv_heads :],
            self._read_bounds if only_read else self._bounds,
            self._starts,
            shape.width,
            shape.visible,
            enable_gqa=self.heads != self.kv_heads,
            seqused_k=self._visible,
        )
        assert isinstance(out, Tensor)
        return out


class PaddedAttention(_OnTables):
    """Scaled dot products over segments that are padded to one width and one length."""

    def prepare(self) -> None:
        """Work out which cache positions and rows each segment has, and which it does not see."""
        tables, shape = self.tables, self.tables.shape
        device = tables.starts.device
        offsets = torch.arange(shape.visible, device=device)
        seen = offsets < tables.visible[:, None]
        # What is not seen reads the segment's first position, which is always there.
        places = tables.starts[:, None] + torch.where(seen, offsets, 0)
        self._places = places.view(-1)
        self._mask = seen[:, None, None, :]
        columns = torch.arange(shape.width, device=device)
        self._rows = (tables.bounds[:-1, None] + columns).clamp_(max=shape.rows - 1).view(-1)
        read = (tables.read_bounds[:-1, None] + columns).clamp_(max=shape.read - 1)
        self._read_rows = read.view(-1)

    def _mix(self, query: Tensor, buffer: Tensor, only_read: bool) -> Tensor:
        shape, tables = self.tables.shape, self.tables
        rows = self._read_rows if only_read else self._rows
        place = tables.read_place if only_read else tables.place
        queries = query.index_select(0, rows).unflatten(0, (shape.segments, shape.width))
        visible = buffer.index_select(0, self._places)
        visible = visible.unflatten(0, (shape.segments, shape.visible)).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(
            queries.transpose(1, 2),
            visible[:, : self.kv_heads],
            visible[:, self.kv_heads :],
            attn_mask=self._mask,
            enable_gqa=self.heads != self.kv_heads,
        )
        return mixed.transpose(1, 2).flatten(0, 1).index_select(0, place)
