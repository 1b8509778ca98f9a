"""Passes at fixed shapes: recorded once, replayed with other contents.

A GPU runs these (a CUDA graph per shape and range of layers). Numbers of rows, segments, visible
positions and rows read are rounded up to a few sizes; padding works on a scratch position at the
end of the cache and is discarded. The host fills one buffer of integers per pass, in one transfer.
Everything but the recording itself is the same on a CPU, where it is tested.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastdllm.engine.batch import Segment
from fastdllm.engine.cache import KVCache
from fastdllm.engine.static_attention import StaticAttention
from fastdllm.engine.static_tables import PassShape, StaticTables
from fastdllm.model.fused import FusedModel

# Numbers of rows are rounded to it where the model does not name its own.
USUAL_BLOCK = 32
# Records a function without arguments and returns a function that replays it.
Record = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]


class StaticEngine:
    """An `Engine` whose passes have fixed shapes; owns their recordings."""

    def __init__(
        self,
        model: FusedModel,
        cache: KVCache,
        *,
        attention: type[StaticAttention],
        record: Record,
    ) -> None:
        self.model, self.cache = model, cache
        self.attention, self.record = attention, record
        self.slots: dict[tuple[PassShape, bool], ShapeSlot] = {}

    def open(self, segments: Sequence[Segment], *, part: bool = False) -> StaticPass:
        """Lay out the rows of a pass; `part`: of a part of the last one, which stays in use."""
        shape = PassShape.of(segments, self.model.config.block_size or USUAL_BLOCK)
        if (shape, part) not in self.slots:
            self.slots[shape, part] = ShapeSlot(self, shape)
        return StaticPass(self.slots[shape, part], segments)

    @property
    def recording_s(self) -> float:
        """Seconds spent so far on recording shapes for their first use."""
        return sum(slot.recording_s for slot in self.slots.values())


class ShapeSlot:
    """Buffers and recordings of one shape.

    Does not hold its engine: in a reference cycle, the memory of both would not be freed at once.
    """

    def __init__(self, engine: StaticEngine, shape: PassShape) -> None:
        self.model, self.record, self.scratch = engine.model, engine.record, engine.cache.scratch
        model = engine.model
        self.recording_s = 0.0
        self.tables = StaticTables(shape, model.device)
        self.attend = engine.attention(model.config, engine.cache, self.tables)
        size = (shape.rows, model.config.hidden_size)
        self.hidden = torch.zeros(size, device=model.device, dtype=model.dtype)
        self.replays: dict[tuple[int, int, bool], Callable[[], Tensor]] = {}

    def run(self, start: int, stop: int, only_read: bool) -> Tensor:
        """Run a range of layers on `hidden`; it is recorded the first time."""
        key = (start, stop, only_read)
        if key not in self.replays:
            started = time.perf_counter()
            # Local names: a function that held this slot would keep its memory alive.
            model, hidden, tables, attend = self.model, self.hidden, self.tables, self.attend

            def forward() -> Tensor:
                attend.prepare()
                return model.run_layers(
                    hidden,
                    start,
                    stop,
                    rotation=model.rotations.index_select(0, tables.positions),
                    attend=attend,
                    only_read=only_read,
                )

            self.replays[key] = self.record(forward)
            self.recording_s += time.perf_counter() - started
        return self.replays[key]()


class StaticPass:
    """An `OpenPass` of a fixed shape, whose first rows are those of the pass."""

    def __init__(self, slot: ShapeSlot, segments: Sequence[Segment]) -> None:
        self.slot = slot
        self.rows = sum(segment.width for segment in segments)
        self.reads = sum(segment.read[1] - segment.read[0] for segment in segments)
        slot.tables.fill(segments, scratch=slot.scratch)

    def embed(self) -> Tensor:
        """Hidden states [R, H] of the pass's tokens."""
        return self.slot.model.embed(self.slot.tables.tokens[: self.rows])

    def layers(self, hidden: Tensor, start: int, stop: int, *, only_read: bool = False) -> Tensor:
        """Run layers `start` <= i < `stop` on [R, H]; with `only_read` return [M, H]."""
        self.slot.hidden[: self.rows] = hidden
        out = self.slot.run(start, stop, only_read)
        # A copy: the next replay overwrites this result.
        return out[: self.reads if only_read else self.rows].clone()

    def read_rows(self, x: Tensor) -> Tensor:
        """The rows of `x` [R, ...] whose logits are read, [M, ...]."""
        return x.index_select(0, self.slot.tables.read[: self.reads])


def run_directly(forward: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """A `Record` that records nothing and runs the function each time."""
    return forward


class CudaGraphs:
    """A `Record` that captures a function's kernels as a CUDA graph.

    All graphs of an engine share one memory pool: they are replayed one at a time, and each result
    is copied before the next runs.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with torch.cuda.device(device):
            self._pool = torch.cuda.graph_pool_handle()
            self._stream = torch.cuda.Stream()

    def __call__(self, forward: Callable[[], Tensor]) -> Callable[[], Tensor]:
        device = self.device
        # Streams and captures belong to the current device, wherever the tensors are.
        with torch.cuda.device(device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                # The first use chooses kernels and makes workspaces, which a capture forbids.
                for _ in range(2):
                    forward()
            torch.cuda.current_stream().wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                out = forward()
            torch.cuda.synchronize()

        def replay() -> Tensor:
            with torch.cuda.device(device):
                graph.replay()
            return out

        return replay
