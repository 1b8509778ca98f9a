"""Attention at fixed shapes: tensors, not the program, say which rows belong together.

Two kinds: FlashAttention over segments of different length, and scaled dot products over padded
segments for everything else (float32, GPUs before Ampere, torch before 2.12, a CPU in tests).
Neither reads from the device on the host, so both can be recorded and replayed.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdllm.engine.cache import KVCache
from fastdllm.engine.static_tables import StaticTables
from fastdllm.model.config import ModelConfig


class StaticAttention(ABC):
    """`Attend` of fused.py at a fixed shape.

    Writes keys and values to the cache; the kinds differ in how queries attend to them.
    """

    def __init__(self, config: ModelConfig, cache: KVCache, tables: StaticTables) -> None:
        self.kv_heads, self.heads = config.num_kv_heads, config.num_heads
        self.head_dim = config.head_dim
        self.cache, self.tables = cache, tables

    @abstractmethod
    def prepare(self) -> None:
        """Compute, on the device, what all layers of a range share."""

    def __call__(self, layer: int, qkv: Tensor, *, only_read: bool) -> Tensor:
        """See `Attend`."""
        width = self.heads * self.head_dim
        self.cache.rows[layer].index_copy_(0, self.tables.write, qkv[:, width:])
        query = qkv[:, :width].unflatten(1, (self.heads, self.head_dim))
        if only_read:
            query = self.read_rows(query)
        return self._mix(query, self.cache.layers[layer], only_read).flatten(1)

    def read_rows(self, x: Tensor) -> Tensor:
        """The rows of `x` [R, ...] whose logits are read, [M, ...]."""
        return x.index_select(0, self.tables.read)

    @abstractmethod
    def _mix(self, query: Tensor, buffer: Tensor, only_read: bool) -> Tensor:
        """Attention of `query` [R or M, heads, d] over `buffer` [capacity + 1, 2 kv_heads, d]."""


class FlashAttention(StaticAttention):
    """FlashAttention over segments of different length: half precision, Ampere and newer."""

    # What a pass needs of torch's function: one head of keys for several of queries, and lengths.
    NEEDED = frozenset(("enable_gqa", "seqused_k"))

    @classmethod
    def is_offered(cls) -> bool:
        """Whether the function of this torch takes what a pass needs (from torch 2.12 on)."""
        try:
            from torch.nn.attention.varlen import varlen_attn
        except ImportError:
            return False
        return inspect.signature(varlen_attn).parameters.keys() >= cls.NEEDED

    def __init__(self, config: ModelConfig, cache: KVCache, tables: StaticTables) -> None:
        super().__init__(config, cache, tables)
        # Imports torch's compiler, which would cost processes without a GPU a second.
        from torch.nn.attention.varlen import varlen_attn

        self._attend = varlen_attn

    def prepare(self) -> None:
        """Convert the tables to the kernel's integer type."""
        tables = self.tables
        self._bounds = tables.bounds.to(torch.int32)
        self._read_bounds = tables.read_bounds.to(torch.int32)
        self._visible = tables.visible.to(torch.int32)
        # As the lengths are given, the kernel reads only the beginning of each segment here.
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


class PaddedAttention(StaticAttention):
    """Scaled dot products over segments that are padded to one width and one length."""

    def prepare(self) -> None:
        """Compute the cache positions and rows of each segment, and the mask of what it sees."""
        tables, shape = self.tables, self.tables.shape
        device = tables.starts.device
        offsets = torch.arange(shape.visible, device=device)
        is_visible = offsets < tables.visible[:, None]
        # Positions that are not seen read the segment's first one, which always exists.
        places = tables.starts[:, None] + torch.where(is_visible, offsets, 0)
        self._places = places.view(-1)
        self._mask = is_visible[:, None, None, :]
        columns = torch.arange(shape.width, device=device)
        self._rows = (tables.bounds[:-1, None] + columns).clamp_(max=shape.rows - 1).view(-1)
        read = (tables.read_bounds[:-1, None] + columns).clamp_(max=shape.read - 1)
        self._read_rows = read.view(-1)

    def _mix(self, query: Tensor, buffer: Tensor, only_read: bool) -> Tensor:
        shape, tables = self.tables.shape, self.tables
        rows = self._read_rows if only_read else self._rows
        place = tables.read_place if only_read else tables.place
        # Queries that see the same keys are side by side: torch's kernels with a mask know no
        # groups of heads, and would fall back to plain products.
        grouped = (shape.segments, shape.width, self.kv_heads, -1, self.head_dim)
        queries = query.index_select(0, rows).view(grouped).transpose(1, 2).flatten(2, 3)
        visible = buffer.index_select(0, self._places)
        visible = visible.unflatten(0, (shape.segments, shape.visible)).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(
            queries,
            visible[:, : self.kv_heads],
            visible[:, self.kv_heads :],
            attn_mask=self._mask,
        )
        mixed = mixed.unflatten(2, (shape.width, -1)).transpose(1, 2)
        return mixed.reshape(-1, self.heads, self.head_dim).index_select(0, place)
