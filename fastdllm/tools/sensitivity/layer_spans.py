"""The spans of layers that are measured, and the best one for a given saving."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fastdllm.policy import LayerRange
from fastdllm.settings import LAYER_SUBSETS, layer_span

# Ranges grow with the square of the layers, and each costs a pass of its own: deeper models take
# every second layer as an end, and so on.
MOST_ENDS = 14


class SpanDamage(NamedTuple):
    """A half-open range of layers, and what replacing it saves and changes.

    saving: share of the layers of a pass. damage: share of the passes whose tokens change.
    """

    layers: LayerRange
    saving: float
    damage: float


def default_stride(num_layers: int) -> int:
    """Return the distance between layers at which a span may begin or end."""
    return -(-num_layers // MOST_ENDS)


def spans_to_measure(num_layers: int, stride: int) -> list[LayerRange]:
    """Return all single layers, all ranges with ends at multiples of `stride`, and named spans.

    Single layers come first, in order.
    """
    ends = [*range(0, num_layers, stride), num_layers]
    spans = [(layer, layer + 1) for layer in range(num_layers)]
    spans += [(a, b) for a in ends for b in ends if a < b]
    spans += named_spans(num_layers).values()
    return list(dict.fromkeys(spans))


def named_spans(num_layers: int) -> dict[str, LayerRange]:
    """Return the published spans by name; none if the model is too shallow for them."""
    try:
        return {name: layer_span(name, num_layers) for name in LAYER_SUBSETS}
    except ValueError:
        return {}


def least_damage(spans: Iterable[SpanDamage], saving: float) -> SpanDamage | None:
    """Return the span that changes the fewest passes of those that save at least `saving`.

    Of equals the one that saves more, then the first; None if no span saves as much.
    """
    # Shares such as 3 / 10 are not exact in binary.
    enough = [span for span in spans if span.saving >= saving - 1e-9]
    return min(enough, key=lambda s: (s.damage, -s.saving, s.layers), default=None)


def best_by_width(spans: Sequence[SpanDamage]) -> list[SpanDamage]:
    """Return the span of least damage of each width, narrow ones first."""
    widths = sorted({stop - start for (start, stop), _, _ in spans})
    return [
        min((s for s in spans if s.layers[1] - s.layers[0] == width), key=lambda s: s[2])
        for width in widths
    ]
