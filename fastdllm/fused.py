"""The network in the form in which it is decoded: fused weights, flat rows, nothing wasted.

Same layers as model.py (the plain form, for training and as a reference), on rows [R, H] of any
number of sequences at once: which rows belong together is the business of `Attend`. Knows nothing
of caches, blocks or policies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdllm.model import BlockDiffusionModel, Layer, ModelConfig

# Below this many weights oneDNN's call costs more than its packed layout saves: at 8 rows a
# 192 x 64 product takes 8 us plain and 17 us packed, a 1536 x 512 one 161 and 60
# (docs/performance.md).
PACKED_FROM = 65_536

Product = Callable[[Tensor], Tensor]


class Attend(Protocol):
    """Attention of one pass (see attention.py)."""

    def __call__(self, layer: int, qkv: Tensor, *, only_read: bool) -> Tensor:
        """Store keys and values of `qkv` [R, heads + 2 kv_heads, d], and mix the visible ones.

        Returns [R, heads * d], or with `only_read` [M, heads * d]: just the rows that are read.
        """
        ...

    def read_rows(self, x: Tensor) -> Tensor:
        """The rows of `x` [R, ...] whose logits are read, [M, ...]."""
        ...


class FusedLayer:
    """One decoder layer: one product for query, key and value, one for gate and up."""

    def __init__(self, layer: Layer, config: ModelConfig) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        weight = torch.cat([part.weight.detach() for part in parts])
        bias = torch.cat([part.bias.detach() for part in parts])
        if weight.dtype == torch.float32:
            order = _interleaved(config).to(weight.device)
            weight, bias = weight[order], bias[order]
        self.qkv = product(weight, bias)
        self.output = product(attention.o_proj.weight.detach())
        self.gate_up = product(torch.cat([p.weight.detach() for p in (mlp.gate_proj, mlp.up_proj)]))
        self.down = product(mlp.down_proj.weight.detach())
        self.input_norm = norm(layer.input_layernorm.weight.detach(), config.rms_norm_eps)
        self.mlp_norm = norm(layer.post_attention_layernorm.weight.detach(), config.rms_norm_eps)
        self.width = config.intermediate_size

    def feed_forward(self, hidden: Tensor) -> Tensor:
        """Add the SwiGLU feed-forward to `hidden` [R, H]."""
        both = self.gate_up(self.mlp_norm(hidden))
        gated = F.silu(both[:, : self.width]).mul_(both[:, self.width :])
        return self.down(gated).add_(hidden)


class FusedModel:
    """Embed, walk any range of layers, read logits: on flat rows.

    rotations: rotary factors, to be indexed by position. idle_engines: caches, and what was
    recorded for them, that the next decoding can take up (engine.py).
    """

    def __init__(
        self,
        model: BlockDiffusionModel,
        *,
        consume: bool = False,
        make_engine: Callable[[FusedModel, int], Any] | None = None,
    ) -> None:
        """Fuse the weights of `model`.

        Args:
            make_engine: makes an `Engine` with room for so many positions; default: the one for
                the device.
            consume: take the layers out of `model` one by one, so that never more than one is held
                twice; `model` is of no use afterwards.
        """
        self.config = config = model.config
        self.device, self.dtype = model.device, model.dtype
        self.embedding = model.model.embed_tokens.weight.detach()
        self.layers: list[FusedLayer] = []
        for index in range(config.num_layers):
            layer = model.model.layers[index]
            assert isinstance(layer, Layer)
            self.layers.append(FusedLayer(layer, config))
            if consume:
                model.model.layers[index] = torch.nn.Identity()
        self.final_norm = norm(model.model.norm.weight.detach(), config.rms_norm_eps)
        tied = config.tie_word_embeddings
        self.unembed = product(self.embedding if tied else model.lm_head.weight.detach())
        self.rotations = self._rotations(config.max_positions)
        self.make_engine = make_engine
        self.idle_engines: list[Any] = []

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids [R] to hidden states [R, H]."""
        return self.embedding.index_select(0, tokens)

    def run_layers(
        self,
        hidden: Tensor,
        start: int,
        stop: int,
        *,
        rotation: Tensor,
        attend: Attend,
        only_read: bool = False,
    ) -> Tensor:
        """Run layers `start` <= i < `stop` on `hidden` [R, H].

        Args:
            rotation: `rotations` at the positions of the rows, [R, 1, ...].
            attend: attention of this pass.
            only_read: the last of these layers gives only the rows that `attend` calls read; the
                others have left their keys and values by then and are of no further use.

        Returns [R, H], or [M, H] with `only_read`.
        """
        for index in range(start, stop):
            layer = self.layers[index]
            qkv = layer.qkv(layer.input_norm(hidden)).unflatten(1, (-1, self.config.head_dim))
            self._rotate(qkv, rotation)
            last = only_read and index == stop - 1
            mixed = attend(index, qkv, only_read=last)
            if last:
                hidden = attend.read_rows(hidden)
            if len(hidden):
                hidden = layer.feed_forward(layer.output(mixed).add_(hidden))
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Final norm and language-model head: [M, H] to float32 logits [M, V], of their own."""
        if not len(hidden):
            return hidden.new_empty(0, self.config.vocab_size, dtype=torch.float32)
        return self.unembed(self.final_norm(hidden)).float()

    def _rotations(self, count: int) -> Tensor:
        """Rotary factors of positions 0 to `count` - 1.

        Complex [count, 1, d / 2] in float32; else [count, 1, 3 d / 2] in the dtype of the model:
        cosines for both halves of a head, then sines. Angles are float32. Source: RoFormer (arXiv
        2104.09864), eq. 15.
        """
        d = self.config.head_dim
        exponents = torch.arange(0, d, 2, device=self.device, dtype=torch.float32) / d
        frequencies = 1.0 / self.config.rope_theta**exponents
        angles = torch.arange(count, device=self.device)[:, None, None].float() * frequencies
        if self.dtype == torch.float32:
            return torch.polar(torch.ones_like(angles), angles)
        return torch.cat((angles.cos(), angles.cos(), angles.sin()), dim=-1).to(self.dtype)

    def _rotate(self, qkv: Tensor, rotation: Tensor) -> None:
        """Apply rotary positions to the queries and keys in `qkv` [R, heads + 2 kv_heads, d]."""
        turned = qkv[:, : self.config.num_heads + self.config.num_kv_heads]
        if self.dtype == torch.float32:
            pairs = turned.unflatten(2, (-1, 2))
            torch.view_as_complex(pairs).mul_(rotation)
            return
        half = self.config.head_dim // 2
        cos, sin = rotation[..., : 2 * half], rotation[..., 2 * half :]
        rotated = turned * cos
        rotated[..., :half].addcmul_(turned[..., half:], sin, value=-1)
        rotated[..., half:].addcmul_(turned[..., :half], sin)
        turned.copy_(rotated)


def fused(model: BlockDiffusionModel | FusedModel) -> FusedModel:
    """The fused form of a model in either form; a plain one keeps its weights."""
    return model if isinstance(model, FusedModel) else FusedModel(model)


def product(weight: Tensor, bias: Tensor | None = None) -> Product:
    """x -> x W^T + b for `weight` [out, in], in the layout that measures fastest."""
    large = weight.numel() >= PACKED_FROM
    if weight.device.type == "cpu" and weight.dtype == torch.float32 and large and _can_pack():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
        multiply = torch.ops.mkldnn._linear_pointwise
        return lambda x: multiply(x, packed, bias, "none", [], "")
    return lambda x: F.linear(x, weight, bias)


def _can_pack() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(
        torch.ops.mkldnn, "_reorder_linear_weight"
    )


def norm(weight: Tensor, eps: float) -> Product:
    """RMSNorm over the last dimension, with statistics in float32.

    In float32 as x / hypot(||x||, sqrt(n eps)) * (sqrt(n) w), which is the same in half as many
    operations.
    """
    if weight.dtype != torch.float32:
        return lambda x: F.rms_norm(x, weight.shape, weight, eps)
    n = weight.numel()
    scaled = weight * n**0.5
    floor = torch.tensor((n * eps) ** 0.5, device=weight.device)
    return lambda x: torch.div(
        x, torch.hypot(torch.linalg.vector_norm(x, 2, -1, True), floor)
    ).mul_(scaled)


def _interleaved(config: ModelConfig) -> Tensor:
    """Order of the rows of the fused weight that puts each rotated pair side by side.

    A query and its keys in the same order give the same products; a pair is then one complex
    number, and a rotation one multiplication.
    """
    d = config.head_dim
    pairs = torch.arange(d).view(2, d // 2).t().reshape(-1)
    turned = (torch.arange(config.num_heads + config.num_kv_heads)[:, None] * d + pairs).view(-1)
    rest = torch.arange(config.num_kv_heads * d) + turned.numel()
    return torch.cat((turned, rest))
