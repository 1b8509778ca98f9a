"""Passes whose hidden states are kept, and what they would predict with a span of layers replaced.

A recorded pass computes what the engine computes, operation for operation, so a recorded decoding
has the logits of a plain one. A replaced span adds its stored difference to its fresh input and
runs none of its layers; the layers before and after it run (docs/sensitivity.md). Such a shadow
pass leaves no trace in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastdllm.common.errors import UserError
from fastdllm.decoding.finite import reason_not_finite
from fastdllm.decoding.sampling import greedy
from fastdllm.engine.batch import Segment
from fastdllm.engine.cache import KVCache
from fastdllm.engine.eager import EagerEngine
from fastdllm.engine.engines import OpenPass
from fastdllm.model.fused import FusedModel
from fastdllm.policy import LayerRange, Predictions


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
        """Where the keys and values of the segment are in the cache."""
        first = self.segment.cache_start + self.segment.first
        return slice(first, first + self.segment.width)

    def keys_and_values(self) -> list[Tensor]:
        """Return copies of the segment's rows in the cache, per layer."""
        return [layer[self.rows].clone() for layer in self.cache.rows]

    def restore(self, saved: Sequence[Tensor]) -> None:
        """Write the result of `keys_and_values` back to the cache."""
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
    """Runs each pass in its own shape on any device, so that the states between layers exist."""

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


def replaced_logits(
    model: FusedModel, recorded: Recorded, stored: Tensor, span: LayerRange
) -> Tensor:
    """Logits [M, V] of the rows that the pass reads, with `span` replaced.

    Overwrites keys and values of the pass's rows in the layers behind the span.

    Args:
        stored: [L + 1, R, H], the states of these positions when the layers last ran before.
    """
    (start, stop), states = span, recorded.states
    hidden = states[start] + (stored[stop] - stored[start])
    if stop == len(states) - 1:
        return model.logits(recorded.opened.read_rows(hidden))
    return model.logits(recorded.opened.layers(hidden, stop, len(states) - 1, only_read=True))


def replaced_predictions(
    model: FusedModel,
    recorded: Recorded,
    stored: Tensor,
    spans: Sequence[LayerRange],
    *,
    plain: Predictions,
    places: Sequence[int],
    mask_id: int,
) -> Predictions:
    """`plain` (of one sequence) as it would be with each of `spans` replaced, one row per span.

    Args:
        places: which of the rows read predicts each position of the window; of those behind them,
            which the pass does not run (look-ahead), the predictions stay.

    Raises:
        UserError: a logit with layers replaced is NaN or infinite.
    """
    saved = recorded.keys_and_values()
    try:
        predicted = []
        for span in spans:
            logits = replaced_logits(model, recorded, stored, span)
            logits[:, mask_id] = -torch.inf
            predicted.append(torch.stack([part.double() for part in greedy(logits)]))
    finally:
        recorded.restore(saved)
    # float64 holds token ids and float32 probabilities exactly; one transfer to the host.
    replaced = torch.stack(predicted, dim=1)[..., list(places)].cpu()
    if not replaced.isfinite().all():
        raise UserError(reason_not_finite("a pass with replaced layers", model.dtype))
    kept = torch.stack((plain.tokens.double(), plain.confidence.double()))[..., len(places) :]
    tokens, confidence = torch.cat((replaced, kept.expand(-1, len(spans), -1)), dim=-1)
    masked = plain.masked.expand(len(spans), -1)
    return replace(
        plain,
        tokens=tokens.long(),
        confidence=confidence.float().masked_fill(~masked, -torch.inf),
        masked=masked,
        offsets=plain.offsets.expand(len(spans)),
    )
