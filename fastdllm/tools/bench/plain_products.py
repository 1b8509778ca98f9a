"""The products of a model with plain weights: what the packed layout of the engine is held against.

A prototype that calls torch's own linear layers cannot beat these; the engine may.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from fastdllm.model.config import ModelConfig
from fastdllm.model.fused import FusedModel
from fastdllm.model.products import GatedProduct, PackedProduct, PlainProduct, Product


class LayerProducts(Protocol):
    """The products of one layer."""

    qkv: Product
    output: Product
    gated: GatedProduct
    down: Product


class ModelProducts(Protocol):
    """What a floor of products needs of a model."""

    config: ModelConfig
    device: torch.device
    dtype: torch.dtype
    unembed: Product

    @property
    def layers(self) -> Sequence[LayerProducts]:
        """The products of each layer."""
        ...


@dataclass(slots=True)
class PlainLayer:
    """One layer's products with plain weights."""

    qkv: Product
    output: Product
    gated: GatedProduct
    down: Product


@dataclass(slots=True)
class PlainProducts:
    """A model's products with plain weights, each layer's in memory of its own."""

    config: ModelConfig
    device: torch.device
    dtype: torch.dtype
    unembed: Product
    layers: Sequence[LayerProducts]


def plain_products(model: FusedModel) -> PlainProducts | None:
    """Plain products of the same shapes with random weights; None where the model's are plain."""
    if not any(isinstance(layer.down, PackedProduct) for layer in model.layers):
        return None
    config = model.config
    heads, kv_heads = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    hidden, width = config.hidden_size, config.intermediate_size

    def plain(out: int, inputs: int) -> PlainProduct:
        return PlainProduct(torch.randn(out, inputs, device=model.device, dtype=model.dtype))

    layers = [
        PlainLayer(
            qkv=plain(heads + 2 * kv_heads, hidden),
            output=plain(hidden, heads),
            gated=GatedProduct(plain(2 * width, hidden)),
            down=plain(hidden, width),
        )
        for _ in model.layers
    ]
    head = plain(config.vocab_size, hidden)
    return PlainProducts(config, model.device, model.dtype, head, layers)
