"""What a pass would have said with a span of layers replaced: shadow passes that leave no trace.

A replaced span adds its stored difference to its fresh input and runs none of its layers; the
layers before it and behind it run (docs/sensitivity.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fastdllm.decoding.sampling import greedy
from fastdllm.model.fused import FusedModel
from fastdllm.policy import LayerRange, Predictions
from fastdllm.tools.sensitivity.recording import Recorded


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
    """
    saved = recorded.keys_and_values()
    try:
        found = []
        for span in spans:
            logits = replaced_logits(model, recorded, stored, span)
            logits[:, mask_id] = -torch.inf
            found.append(torch.stack([part.double() for part in greedy(logits)]))
    finally:
        recorded.restore(saved)
    # float64 holds token ids and float32 probabilities exactly; one transfer to the host.
    own = torch.stack(found, dim=1)[..., list(places)].cpu()
    kept = torch.stack((plain.tokens.double(), plain.confidence.double()))[..., len(places) :]
    tokens, confidence = torch.cat((own, kept.expand(-1, len(spans), -1)), dim=-1)
    masked = plain.masked.expand(len(spans), -1)
    return replace(
        plain,
        tokens=tokens.long(),
        confidence=confidence.float().masked_fill(~masked, -torch.inf),
        masked=masked,
        offsets=plain.offsets.expand(len(spans)),
    )
