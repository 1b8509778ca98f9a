"""Which tokens of a batch are masked: two views a batch, made to complete each other.

Half of the answer blocks get uniform noise: each token is masked with probability t ~ U(0, 1) in
the first view, and in the second view exactly when it is not masked in the first. The other half
look like decoding: sub-blocks left of the current one are clean, those right of it are all masked,
and the two views complete each other within the current one. The first token of a block is never
masked, because decoding always gets it from a commit pass; prompt tokens never are.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from training.data import BLOCK_SIZE, Batch

SUB_BLOCK_SIZE = 8


def maskable_positions(trained: Tensor) -> Tensor:
    """Trained positions [B, T] that are not the first of their block."""
    first = torch.arange(trained.shape[1]) % BLOCK_SIZE == 0
    return trained & ~first


def two_views(batch: Batch, generator: Generator) -> Tensor:
    """Return the masked positions of both views, bool [2, B, T]."""
    maskable = maskable_positions(batch.trained)
    if batch.kind == "drill":
        return _complementary(torch.ones_like(maskable), maskable, generator)
    blocks = batch.tokens.shape[1] // BLOCK_SIZE
    rows = batch.tokens.shape[0]
    like_decoding = torch.rand(rows, blocks, generator=generator) < 0.5
    shaped = like_decoding.repeat_interleave(BLOCK_SIZE, dim=1)
    current, later = _sub_block_of_each_block(maskable, generator)
    within = torch.where(shaped, current, torch.ones_like(current))
    views = _complementary(within, maskable, generator)
    return views | (shaped & later & maskable)


def _complementary(within: Tensor, maskable: Tensor, generator: Generator) -> Tensor:
    """Split `within & maskable` at random into two views; the share differs from block to block."""
    rows, length = maskable.shape
    share = torch.rand(rows, length // BLOCK_SIZE, generator=generator)
    share = share.repeat_interleave(BLOCK_SIZE, dim=1)
    first = torch.rand(rows, length, generator=generator) < share
    return torch.stack((first, ~first)) & within & maskable


def _sub_block_of_each_block(maskable: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw a current sub-block for each block among those with maskable tokens.

    Returns the positions of the current sub-blocks and those right of them, both bool [B, T].
    """
    rows, length = maskable.shape
    grid = maskable.view(rows, length // BLOCK_SIZE, BLOCK_SIZE // SUB_BLOCK_SIZE, SUB_BLOCK_SIZE)
    usable = grid.any(-1)
    score = torch.rand(usable.shape, generator=generator).masked_fill(~usable, -1.0)
    drawn = score.argmax(-1, keepdim=True)
    index = torch.arange(usable.shape[-1])
    current = (index == drawn)[..., None].expand(grid.shape)
    later = (index > drawn)[..., None].expand(grid.shape)
    return current.reshape(rows, length), later.reshape(rows, length)
