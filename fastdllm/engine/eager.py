"""Passes in their own shapes: each segment attends to its own extent of the cache, without a mask.

Segments of equal width that see equally many positions share one kernel call, unless their keys and
values are so large that copying them together costs more than a call each. Nothing is padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdllm.engine.batch import FlatBatch, Piece, Segment
from fastdllm.engine.cache import KVCache
from fastdllm.model.config import ModelConfig
from fastdllm.model.fused import FusedModel


class EagerEngine:
    """Each pass in its own shape, without any padding."""

    def __init__(self, model: FusedModel, cache: KVCache) -> None:
        self.model, self.cache = model, cache

    @property
    def recording_s(self) -> float:
        """Zero: nothing is recorded."""
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


# Largest keys and values of one segment, in bytes, for which copying beats a call of its own
# (docs/performance.md).
GATHER_UP_TO = 65_536


@dataclass(frozen=True, slots=True)
class _Call:
    """One kernel call: `count` segments of `width` queries that see `visible` positions each.

    rows, places: the queries' rows and the visible positions, if they must be gathered first; None
    if they are contiguous from `row` and `start`.
    """

    count: int
    width: int
    visible: int
    row: int
    start: int
    rows: Tensor | None
    places: Tensor | None


class SegmentAttention:
    """`Attend` of fused.py for shapes that only the host knows: any device, no capture."""

    def __init__(self, config: ModelConfig, cache: KVCache, batch: FlatBatch) -> None:
        self.kv_heads, self.head_dim = config.num_kv_heads, config.head_dim
        self.group = config.num_heads // config.num_kv_heads
        self.width = config.num_heads * config.head_dim
        self.cache, self.batch = cache, batch
        rows = cache.rows[0]
        self._per_position = rows.shape[1] * rows.dtype.itemsize
        self._calls = _plan(batch.pieces, self._per_position, rows.device)
        self._read_calls: list[_Call] | None = None

    def __call__(self, layer: int, qkv: Tensor, *, only_read: bool) -> Tensor:
        buffer = self.cache.rows[layer]
        buffer.index_copy_(0, self.batch.write, qkv[:, self.width :])
        calls = self._calls
        if only_read:
            if self._read_calls is None:
                self._read_calls = _plan(self.batch.read_pieces, self._per_position, qkv.device)
            calls = self._read_calls
            qkv = self.read_rows(qkv)
        if len(calls) == 1:
            return self._mix(calls[0], qkv, buffer)
        mixed = qkv.new_empty(qkv.shape[0], self.width)
        for call in calls:
            part = self._mix(call, qkv, buffer)
            if call.rows is None:
                mixed[call.row : call.row + part.shape[0]] = part
            else:
                mixed[call.rows] = part
        return mixed

    def read_rows(self, x: Tensor) -> Tensor:
        """The rows of `x` [R, ...] whose logits are read."""
        return x if self.batch.read is None else x.index_select(0, self.batch.read)

    def _mix(self, call: _Call, qkv: Tensor, buffer: Tensor) -> Tensor:
        """Return the attention of one call, [count * width, heads * d]."""
        d, kv_heads, group = self.head_dim, self.kv_heads, self.group
        count, width, visible = call.count, call.width, call.visible
        if call.rows is not None:
            qkv, row = qkv.index_select(0, call.rows), 0
        else:
            row = call.row
        if call.places is not None:
            buffer, start = buffer.index_select(0, call.places), 0
        else:
            start = call.start
        # Views with explicit strides: three calls instead of a dozen per layer.
        stride, offset = qkv.stride(0), qkv.storage_offset() + row * qkv.stride(0)
        if group == 1:
            query = qkv.as_strided(
                (count, kv_heads, width, d), (width * stride, d, stride, 1), offset
            )
        else:
            # The queries of a group see the same keys: side by side, they are simply more queries.
            query = qkv.as_strided(
                (count, kv_heads, width, group, d),
                (width * stride, group * d, stride, d, 1),
                offset,
            ).reshape(count, kv_heads, width * group, d)
        step = buffer.stride(0)
        shape, strides = (count, kv_heads, visible, d), (visible * step, d, step, 1)
        offset = buffer.storage_offset() + start * step
        key = buffer.as_strided(shape, strides, offset)
        value = buffer.as_strided(shape, strides, offset + kv_heads * d)
        mixed = F.scaled_dot_product_attention(query, key, value)
        if group > 1:
            mixed = mixed.unflatten(2, (width, group)).permute(0, 2, 1, 3, 4)
        else:
            mixed = mixed.transpose(1, 2)
        return mixed.reshape(count * width, -1)


def _plan(pieces: Sequence[Piece], per_position: int, device: torch.device) -> list[_Call]:
    """Group the segments that share a call."""
    shapes: dict[tuple[int, int], list[Piece]] = {}
    for piece in pieces:
        shapes.setdefault((piece.width, piece.visible), []).append(piece)
    calls = []
    for (width, visible), alike in shapes.items():
        if len(alike) == 1 or visible * per_position > GATHER_UP_TO:
            calls += [_Call(1, width, visible, p.row, p.start, None, None) for p in alike]
            continue
        rows = None
        if any(b.row - a.row != width for a, b in pairwise(alike)):
            first = torch.tensor([p.row for p in alike], device=device)[:, None]
            rows = (first + torch.arange(width, device=device)).view(-1)
        starts = torch.tensor([p.start for p in alike], device=device)[:, None]
        calls.append(
            _Call(
                count=len(alike),
                width=width,
                visible=visible,
                row=alike[0].row,
                start=0,
                rows=rows,
                places=(starts + torch.arange(visible, device=device)).view(-1),
            )
        )
    return calls
