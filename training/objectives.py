"""The loss of each phase, as a function of a model and a batch.

Both keep the token shift of decoding: the row at position i predicts the token at i + 1. Each loss
is a mean over the predicted tokens, in nats.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdllm.model.plain import BlockDiffusionModel
from training.data import BLOCK_SIZE, Batch


def autoregressive_loss(model: BlockDiffusionModel, batch: Batch) -> Tensor:
    """Next-token loss on the trained positions, under a causal mask."""
    length = batch.tokens.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    hidden = _hidden(model, batch.tokens, torch.arange(length), causal)
    predicted = batch.trained[:, 1:]
    return _loss_at(model, hidden[:, :-1], predicted, batch.tokens[:, 1:])


def diffusion_loss(
    model: BlockDiffusionModel, batch: Batch, masked: Tensor, *, mask_id: int
) -> Tensor:
    """Block-diffusion loss of both noised views and of the clean copy, in one forward pass.

    The row is [clean copy | first view | second view]. A noised block b sees itself and the clean
    blocks before it; the clean copy is block-causal. The clean copy predicts the first token of
    each answer block, the views predict what is masked in them. `masked` is bool [2, B, T]. Views
    start at the first answer block, and the last clean block is left out: nothing looks at it.
    Source: Fast-dLLM v2 (arXiv 2509.26328), section 3.
    """
    rows, length = batch.tokens.shape
    start, clean_length = batch.first_block * BLOCK_SIZE, length - BLOCK_SIZE
    views = batch.tokens.expand(2, rows, length).masked_fill(masked, mask_id)[:, :, start:]
    positions = torch.arange(length)
    hidden = _hidden(
        model,
        torch.cat((batch.tokens[:, :clean_length], views[0], views[1]), dim=1),
        torch.cat((positions[:clean_length], positions[start:], positions[start:])),
        views_mask(clean_blocks=clean_length // BLOCK_SIZE, first_block=batch.first_block),
    )
    clean, *noised = hidden.split((clean_length, length - start, length - start), dim=1)
    block_starts = batch.trained & (positions % BLOCK_SIZE == 0)
    parts = [
        # Rows 0 .. clean_length - 1 predict positions 1 .. clean_length.
        (clean, block_starts[:, 1 : clean_length + 1], batch.tokens[:, 1 : clean_length + 1]),
        *(
            (view[:, :-1], mask[:, start + 1 :], batch.tokens[:, start + 1 :])
            for view, mask in zip(noised, masked, strict=True)
        ),
    ]
    return _loss_at(model, *(torch.cat(part, dim=1) for part in zip(*parts, strict=True)))


def views_mask(*, clean_blocks: int, first_block: int) -> Tensor:
    """Bool [T, T] for the row [clean copy | view | view]; True where a query may attend."""
    clean = torch.arange(clean_blocks)
    noised = torch.arange(first_block, clean_blocks + 1)
    block = torch.cat((clean, noised, noised)).repeat_interleave(BLOCK_SIZE)
    copy = torch.tensor([0] * len(clean) + [1] * len(noised) + [2] * len(noised))
    copy = copy.repeat_interleave(BLOCK_SIZE)
    to_clean = copy[None, :] == 0
    from_clean = copy[:, None] == 0
    earlier = block[None, :] < block[:, None]
    same = block[None, :] == block[:, None]
    return (to_clean & (earlier | (same & from_clean))) | (same & (copy[None] == copy[:, None]))


def _hidden(model: BlockDiffusionModel, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
    embedded = model.embed(tokens)
    return model.run_layers(embedded, 0, model.config.num_layers, positions=positions, mask=mask)


def _loss_at(model: BlockDiffusionModel, hidden: Tensor, chosen: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy where `chosen` [B, T] is set; the head runs on those rows alone."""
    return F.cross_entropy(model.head(hidden[chosen]), targets[chosen])
