"""An engine that keeps, of passes that are awaited, the hidden states between all layers.

Computes what the engine inside computes, operation for operation, so that a recorded decoding has
the logits of a plain one. Knows nothing of what the states are good for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastdllm.engine.batch import Segment
from fastdllm.engine.cache import KVCache
from fastdllm.engine.eager import EagerEngine
from fastdllm.engine.engines import OpenPass
from fastdllm.model.fused import FusedModel


@dataclass(slots=True)
class Recorded:
    """A pass over one segment, still open, so that layers can be run on other inputs.

    states: [L + 1, R, H]; states[i] is the input of layer i and the output of layer i - 1.
    """

    opened: OpenPass
    segment: Segment
    states: Tensor
    cache: KVCache

    @property
    def rows(self) -> slice:
        """Where the keys and values of the segment stand in the cache."""
        first = self.segment.cache_start + self.segment.first
        return slice(first, first + self.segment.width)

    def keys_and_values(self) -> list[Tensor]:
        """Copies of what the segment's rows left in the cache, per layer."""
        return [layer[self.rows].clone() for layer in self.cache.rows]

    def restore(self, saved: Sequence[Tensor]) -> None:
        """Write what `keys_and_values` gave back to the cache."""
        for layer, rows in zip(self.cache.rows, saved, strict=True):
            layer[self.rows] = rows


class Recorder:
    """Decides which passes are recorded, and holds the last one.

    awaits: whether the next pass is to be recorded; set by the policy, which knows its kind.
    """

    def __init__(self) -> None:
        self.awaits = False
        self.last: Recorded | None = None

    def engine(self, model: FusedModel, capacity: int) -> RecordingEngine:
        """An engine for `decode` (`FusedModel.make_engine`)."""
        cache = KVCache(model.config, capacity=capacity, device=model.device, dtype=model.dtype)
        return RecordingEngine(model, cache, self)


class RecordingEngine(EagerEngine):
    """Runs each pass in its own shape, on any device: recorded shapes have no states to look at."""

    def __init__(self, model: FusedModel, cache: KVCache, recorder: Recorder) -> None:
        super().__init__(model, cache)
        self.recorder = recorder

    def open(self, segments: Sequence[Segment], *, part: bool = False) -> OpenPass:  # type: ignore[override]
        """Lay out the rows of a pass; one that is awaited is recorded while it runs."""
        opened = super().open(segments, part=part)
        if not self.recorder.awaits:
            return opened
        self.recorder.awaits = False
        (segment,) = segments
        return _RecordingPass(self, opened, segment)


class _RecordingPass:
    """An `OpenPass` that runs all layers one by one."""

    def __init__(self, engine: RecordingEngine, inner: OpenPass, segment: Segment) -> None:
        self.engine, self.inner, self.segment = engine, inner, segment

    def embed(self) -> Tensor:
        """Hidden states [R, H] of the pass's tokens."""
        return self.inner.embed()

    def layers(self, hidden: Tensor, start: int, stop: int, *, only_read: bool = False) -> Tensor:
        """Run layers `start` <= i < `stop` on [R, H]; with `only_read` return [M, H]."""
        states = [hidden]
        for layer in range(start, stop):
            states.append(self.inner.layers(states[-1], layer, layer + 1))
        if start == 0 and stop == self.engine.model.config.num_layers:
            self.engine.recorder.last = Recorded(
                self.inner, self.segment, torch.stack(states), self.engine.cache
            )
        if only_read:
            # Once more as the plain pass runs it: fewer rows may round another way.
            return self.inner.layers(states[-2], stop - 1, stop, only_read=True)
        return states[-1]

    def read_rows(self, x: Tensor) -> Tensor:
        """The rows of `x` [R, ...] whose logits are read, [M, ...]."""
        return self.inner.read_rows(x)
