"""The floor on a CPU: the time of a pass's matrix products alone, with the model's own weights.

Every layer is walked in turn, so that weights and keys come from where they lie in a real pass.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from fastdllm.decoding.events import PassRecord
from fastdllm.model.fused import FusedModel
from fastdllm.tools.bench.floor import PassFloor

# The first replay of a shape loads kernels and cold weights; the median of three ignores it.
REPLAYS = 3


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """`count` segments whose `width` rows see `visible` positions each."""

    count: int
    width: int
    visible: int


def attention_shapes(record: PassRecord, *, only_read: bool) -> list[AttentionShape]:
    """Segments of equal shape together; with `only_read` just the rows that are read."""
    pairs = Counter(
        (segment.read if only_read else segment.width, segment.visible)
        for segment in record.segments
        if segment.read or not only_read
    )
    return [AttentionShape(count, *shape) for shape, count in sorted(pairs.items())]


class ProductsFloor:
    """`Floor` by timing products of the same shapes on tensors made beforehand."""

    most_passes = 64

    def __init__(self, model: FusedModel, clock: Callable[[], float] = time.perf_counter) -> None:
        self.model, self.clock = model, clock
        self._pools: dict[object, Tensor] = {}

    @torch.inference_mode()
    def of_pass(self, record: PassRecord) -> PassFloor:
        """Return the median time of a few replays of the products of one pass."""
        replay = self._prepared(record)
        times = []
        for _ in range(REPLAYS):
            started = self.clock()
            replay()
            times.append(self.clock() - started)
        return PassFloor(median(times), "products")

    def _prepared(self, record: PassRecord) -> Callable[[], None]:
        """Return a function that runs the products of one pass; its inputs are made beforehand."""
        config, layers = self.model.config, self.model.layers
        hidden = self._inputs(record.rows, config.hidden_size)
        mixed = self._inputs(record.rows, config.num_heads * config.head_dim)
        gated = self._inputs(record.rows, config.intermediate_size)
        everywhere = attention_shapes(record, only_read=False)
        last = len(layers) - 1
        attention = [self._attention(index, everywhere) for index in range(last)]
        # The last layer ends with the rows whose logits are read.
        attention.append(self._attention(last, attention_shapes(record, only_read=True)))
        read = record.rows_read

        def replay() -> None:
            for index, layer in enumerate(layers):
                layer.qkv(hidden)
                for query, key, value, scores, out in attention[index]:
                    torch.bmm(query, key, out=scores)
                    torch.bmm(scores, value, out=out)
                rows = read if index == last else record.rows
                if rows:
                    layer.output(mixed[:rows])
                    layer.gated.both(hidden[:rows])
                    layer.down(gated[:rows])
            if read:
                self.model.unembed(hidden[:read])

        return replay

    def _attention(self, layer: int, shapes: Sequence[AttentionShape]) -> list[tuple[Tensor, ...]]:
        """Return queries, keys, values and two buffers; heads of a group side by side."""
        config = self.model.config
        d, kv_heads = config.head_dim, config.num_kv_heads
        group = config.num_heads // kv_heads
        positions = sum(shape.count * shape.visible for shape in shapes)
        # Keys and values of each layer lie in memory of their own, as in the cache.
        cache = self._pool(("cache", layer), 2 * positions * kv_heads * d)
        calls: list[tuple[Tensor, ...]] = []
        start = 0
        for shape in shapes:
            batch, rows = shape.count * kv_heads, shape.width * group
            size = batch * shape.visible * d
            key = cache[start : start + size].view(batch, shape.visible, d)
            value = cache[start + size : start + 2 * size].view(batch, shape.visible, d)
            start += 2 * size
            query = self._pool("query", batch * rows * d).view(batch, rows, d)
            scores = self._pool("scores", batch * rows * shape.visible)
            out = self._pool("out", batch * rows * d).view(batch, rows, d)
            calls.append(
                (query, key.transpose(1, 2), value, scores.view(batch, rows, shape.visible), out)
            )
        return calls

    def _inputs(self, rows: int, width: int) -> Tensor:
        return self._pool(("rows", width), rows * width).view(rows, width)

    def _pool(self, name: object, size: int) -> Tensor:
        """`size` random numbers, the same memory for each call while it is large enough."""
        pool = self._pools.get(name)
        if pool is None or len(pool) < size:
            pool = torch.randn(size, device=self.model.device).to(self.model.dtype)
            self._pools[name] = pool
        return pool[:size]
