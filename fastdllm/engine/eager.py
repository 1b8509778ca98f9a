"""Passes in their own shapes: each segment attends to its own extent of the cache, without a mask.

Segments of equal width that see equally many positions share one kernel call, unless their keys and
values are so large that copying them together costs more than a call each. Nothing is copied where
they lie equally far apart. Nothing is padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

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
    """An `OpenPass` in its own shape.

    Inside, segments of equal shape are adjacent, so that a kernel call takes its rows as they lie;
    outside, all rows are in the order in which the segments were given.
    """

    def __init__(self, model: FusedModel, cache: KVCache, segments: Sequence[Segment]) -> None:
        self.model = model
        order = sorted(range(len(segments)), key=lambda index: _shape(segments[index]))
        self.batch = FlatBatch([segments[index] for index in order], model.device)
        self.rotation = model.rotations.index_select(0, self.batch.positions)
        self.attend = SegmentAttention(model.config, cache, self.batch)
        self._inside = self._outside = self._outside_read = None
        if order != sorted(order):
            widths = [segment.width for segment in segments]
            reads = [segment.read[1] - segment.read[0] for segment in segments]
            self._inside = _rows_of(order, widths).to(model.device)
            self._outside = self._inside.argsort()
            self._outside_read = _rows_of(order, reads).argsort().to(model.device)

    def embed(self) -> Tensor:
        """Hidden states [R, H] of the pass's tokens."""
        return _at(self._outside, self.model.embed(self.batch.tokens))

    def layers(self, hidden: Tensor, start: int, stop: int, *, only_read: bool = False) -> Tensor:
        """Run layers `start` <= i < `stop` on [R, H]; with `only_read` return [M, H]."""
        out = self.model.run_layers(
            _at(self._inside, hidden),
            start,
            stop,
            rotation=self.rotation,
            attend=self.attend,
            only_read=only_read,
        )
        return _at(self._outside_read if only_read else self._outside, out)

    def read_rows(self, x: Tensor) -> Tensor:
        """The rows of `x` [R, ...] whose logits are read, [M, ...]."""
        return _at(self._outside_read, self.attend.read_rows(_at(self._inside, x)))


def _shape(segment: Segment) -> tuple[int, int, int, int]:
    """What segments of a pass are sorted by: those that share a kernel call have the same begin."""
    return segment.width, segment.visible, segment.read[1] - segment.read[0], segment.cache_start


def _rows_of(order: Sequence[int], widths: Sequence[int]) -> Tensor:
    """Return where the rows of segments, `widths` of them each, were before a change of order."""
    runs = torch.arange(sum(widths)).split(list(widths))
    return torch.cat([runs[index] for index in order])


def _at(rows: Tensor | None, x: Tensor) -> Tensor:
    """The `rows` of `x`; None: all, in their order."""
    return x if rows is None else x.index_select(0, rows)


# Largest keys and values of one segment, in bytes, for which copying beats a call of its own
# (docs/performance.md).
GATHER_UP_TO = 65_536


@dataclass(frozen=True, slots=True)
class _Call:
    """One kernel call: adjacent segments of equal width that see equally many positions.

    rows: how many query rows. shape, strides, offset: the queries as a view of all rows,
    [segments, kv_heads, width, d], or with several queries for each key [..., width, group, d].
    keys, values: by layer, [segments, kv_heads, visible, d].
    gathered: memory of which keys and values are views, if the positions `places` of the cache are
    to be gathered there before.
    """

    rows: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    places: Tensor | None
    gathered: Tensor | None

    def queries(self, qkv: Tensor) -> Tensor:
        """The queries of this call in those of all rows, [R, (heads + 2 kv_heads) d]."""
        return qkv.as_strided(self.shape, self.strides, qkv.storage_offset() + self.offset)


class SegmentAttention:
    """`Attend` of fused.py for shapes that only the host knows: any device, no capture."""

    def __init__(self, config: ModelConfig, cache: KVCache, batch: FlatBatch) -> None:
        self.kv_heads, self.head_dim = config.num_kv_heads, config.head_dim
        self.group = config.num_heads // config.num_kv_heads
        self.width = config.num_heads * config.head_dim
        self.cache, self.batch = cache, batch
        self._calls = self._plan(batch.pieces, cache.buffers)
        self._qkv: Tensor | None = None
        self._stored: Sequence[Tensor] | None = None
        if (first := batch.first_write) is not None:
            self._stored = cache.buffers[:, first : first + batch.rows].unbind(0)

    def __call__(self, layer: int, qkv: Tensor, *, only_read: bool) -> Tensor:
        """See `Attend`."""
        if qkv is not self._qkv:
            self._qkv, self._new = qkv, qkv[:, self.width :]
            self._queries = [call.queries(qkv) for call in self._calls]
        if self._stored is not None:
            self._stored[layer].copy_(self._new)
        else:
            self.cache.rows[layer].index_copy_(0, self.batch.write, self._new)
        calls, queries, index = self._calls, self._queries, layer
        if only_read:
            # Of one layer, so its views are those of that layer alone.
            buffers, index = self.cache.buffers[layer : layer + 1], 0
            calls = self._plan(self.batch.read_pieces, buffers)
            qkv = self.read_rows(qkv)
            queries = [call.queries(qkv) for call in calls]
        mixed = [
            self._mix(call, query, index, self.cache.rows[layer])
            for call, query in zip(calls, queries, strict=True)
        ]
        if len(mixed) == 1:
            return mixed[0]
        return torch.cat(mixed) if mixed else qkv[:, : self.width]

    def read_rows(self, x: Tensor) -> Tensor:
        """The rows of `x` [R, ...] whose logits are read."""
        return x if self.batch.read is None else x.index_select(0, self.batch.read)

    def _mix(self, call: _Call, query: Tensor, index: int, buffer: Tensor) -> Tensor:
        """Return the attention of one call, [rows, heads * d]."""
        if call.places is not None:
            torch.index_select(buffer, 0, call.places, out=call.gathered)
        if self.group > 1:
            # The queries of a group see the same keys: side by side, they are simply more queries.
            query = query.flatten(2, 3)
        mixed = F.scaled_dot_product_attention(query, call.keys[index], call.values[index])
        mixed = mixed.transpose(1, 2)
        if self.group > 1:
            mixed = mixed.unflatten(1, (-1, self.group)).transpose(2, 3)
        return mixed.reshape(call.rows, -1)

    def _plan(self, pieces: Sequence[Piece], buffers: Tensor) -> list[_Call]:
        """Group adjacent segments that share a call, on `buffers` of some layers."""
        per_position = buffers.shape[2] * buffers.dtype.itemsize
        groups: list[list[Piece]] = []
        for (_, visible), alike in groupby(pieces, key=lambda piece: (piece.width, piece.visible)):
            group = list(alike)
            is_apart = _spacing(group) is None and visible * per_position > GATHER_UP_TO
            groups += [[piece] for piece in group] if is_apart else [group]
        # One call gathers after the other, so all use the same memory, which stays in a cache.
        most = max((len(g) * g[0].visible for g in groups if _spacing(g) is None), default=0)
        room = buffers.new_empty(most, buffers.shape[2])
        return [self._call(group, buffers, room) for group in groups]

    def _call(self, pieces: Sequence[Piece], buffers: Tensor, room: Tensor) -> _Call:
        """Return the call for adjacent segments of equal shape; it may gather in `room`."""
        first, count, spacing = pieces[0], len(pieces), _spacing(pieces)
        d, kv_heads = self.head_dim, self.kv_heads
        start, places, gathered = first.start, None, None
        if spacing is None:
            starts = torch.tensor([piece.start for piece in pieces], device=buffers.device)[:, None]
            places = (starts + torch.arange(first.visible, device=buffers.device)).view(-1)
            gathered = room[: len(places)]
            buffers, start, spacing = gathered.expand(len(buffers), -1, -1), 0, first.visible
        step = buffers.stride(1)
        shape = (len(buffers), count, kv_heads, first.visible, d)
        strides = (buffers.stride(0), spacing * step, d, step, 1)
        offset = buffers.storage_offset() + start * step
        row = self.width + 2 * kv_heads * d
        queries = (count, kv_heads, first.width, self.group, d)
        query_strides = (first.width * row, self.group * d, row, d, 1)
        alone = self.group == 1
        return _Call(
            rows=count * first.width,
            shape=(*queries[:3], d) if alone else queries,
            strides=(*query_strides[:3], 1) if alone else query_strides,
            offset=first.row * row,
            keys=buffers.as_strided(shape, strides, offset).unbind(0),
            values=buffers.as_strided(shape, strides, offset + kv_heads * d).unbind(0),
            places=places,
            gathered=gathered,
        )


def _spacing(pieces: Sequence[Piece]) -> int | None:
    """Return how far in the cache each segment lies behind the one before; None if that differs."""
    distances = {after.start - before.start for before, after in pairwise(pieces)} or {0}
    return min(distances) if len(distances) == 1 and min(distances) >= 0 else None
