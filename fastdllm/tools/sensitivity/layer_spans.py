"""The spans of layers that are measured, and the best one for a given saving."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import Field

from fastdllm.policy import LayerRange
from fastdllm.settings import LAYER_SUBSETS, layer_span
from fastdllm.validation import StrictModel

# Ranges grow with the square of the layers, and each costs a pass of its own: deeper models take
# every second layer as an end, and so on.
MOST_ENDS = 14

Value = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class MeasuredSpan(StrictModel):
    """A span of layers, and what replacing it saves and changes."""

    layers: LayerRange = Field(description="Half-open range, as in layer_subset.")
    saving: Value = Field(description="Share of the layers of a pass that are not run.")
    damage: Value = Field(description="Share of sub-block passes whose committed tokens change.")


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


def least_damage(spans: Iterable[MeasuredSpan], saving: float) -> MeasuredSpan | None:
    """Return the span that changes the fewest passes of those that save at least `saving`.

    Of equals the one that saves more, then the first; None if no span saves as much.
    """
    # Shares such as 3 / 10 are not exact in binary.
    enough = [span for span in spans if span.saving >= saving - 1e-9]
    return min(enough, key=lambda s: (s.damage, -s.saving, s.layers), default=None)


def best_by_width(spans: Sequence[MeasuredSpan]) -> list[MeasuredSpan]:
    """Return the span of least damage of each width, narrow ones first."""
    by_width: dict[int, list[MeasuredSpan]] = {}
    for span in spans:
        by_width.setdefault(span.layers[1] - span.layers[0], []).append(span)
    return [min(by_width[width], key=lambda s: s.damage) for width in sorted(by_width)]
