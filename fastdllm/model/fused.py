"""The network in the form that decoding uses: fused weights, on flat rows.

The layers of plain.py, on rows [R, H] of any number of sequences at once; `Attend` knows which rows
belong together. Knows nothing of caches, blocks or policies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdllm.machine.process import keep_freed_memory, return_freed_memory
from fastdllm.model.config import ModelConfig
from fastdllm.model.plain import BlockDiffusionModel
from fastdllm.model.products import GatedProduct, is_packed, is_rearranged, product

Norm = Callable[[Tensor], Tensor]


class Weights(Protocol):
    """Where weights come from, by their names in a checkpoint: its files, or a plain model.

    device, dtype: of the model that is made of them.
    """

    @property
    def config(self) -> ModelConfig: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def shape(self, name: str) -> Sequence[int]:
        """Return the shape of a weight."""
        ...

    def write(self, name: str, out: Tensor) -> None:
        """Write a weight to `out`, of its shape and in whatever dtype."""
        ...


class Attend(Protocol):
    """Attention of one pass; the engines (fastdllm/engine) implement it."""

    def __call__(self, layer: int, qkv: Tensor, *, only_read: bool) -> Tensor:
        """Store keys and values of `qkv` [R, (heads + 2 kv_heads) d], and attend to all visible.

        Returns [R, heads * d], or with `only_read` [M, heads * d]: only the rows that are read.
        """
        ...

    def read_rows(self, x: Tensor) -> Tensor:
        """The rows of `x` [R, ...] whose logits are read, [M, ...]."""
        ...


class Joined:
    """Copies of weights, of several side by side as one.

    What is packed afterwards is written to memory that the next one takes again: each new page
    would cost the system as much time as reading its bytes.
    """

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._reused = torch.empty(0, device=weights.device, dtype=weights.dtype)

    def __call__(self, *names: str, is_kept: bool = False) -> Tensor:
        """Return weights one below the other, [out, in] or [out].

        is_kept: whether the copy itself is part of the model, even if it is also packed.
        """
        shapes = [self._weights.shape(name) for name in names]
        rows = [shape[0] for shape in shapes]
        joined = self._empty((sum(rows), *shapes[0][1:]), is_kept=is_kept)
        for name, part in zip(names, joined.split(rows), strict=True):
            self._weights.write(name, part)
        return joined

    def _empty(self, shape: tuple[int, ...], *, is_kept: bool) -> Tensor:
        size, kind = math.prod(shape), self._reused
        is_matrix = len(shape) > 1
        if is_kept or not is_matrix or not is_packed(size, kind.device, kind.dtype):
            return kind.new_empty(shape)
        if len(self._reused) < size:
            self._reused = kind.new_empty(0)  # the smaller one is freed before
            self._reused = kind.new_empty(size)
        return self._reused[:size].view(shape)


class FusedLayer:
    """One decoder layer: one product for query, key and value, and a gated one for gate and up."""

    def __init__(self, joined: Joined, prefix: str, config: ModelConfig) -> None:
        def names(part: str, kind: str, *letters: str) -> list[str]:
            return [f"{prefix}.{part}.{letter}_proj.{kind}" for letter in letters]

        eps = config.rms_norm_eps
        input_norm = joined(f"{prefix}.input_layernorm.weight")
        mlp_norm = joined(f"{prefix}.post_attention_layernorm.weight")
        weight = joined(*names("self_attn", "weight", "q", "k", "v"))
        bias = joined(*names("self_attn", "bias", "q", "k", "v"))
        if weight.dtype == torch.float32:
            order = _interleaved(config).to(weight.device)
            weight, bias = weight[order].mul_(input_scale(input_norm)), bias[order]
        self.qkv = product(weight, bias)
        self.output = product(joined(*names("self_attn", "weight", "o")))
        weight = joined(*names("mlp", "weight", "gate", "up"))
        if weight.dtype == torch.float32:
            weight.mul_(input_scale(mlp_norm))
        self.gated = GatedProduct(product(weight))
        self.down = product(joined(*names("mlp", "weight", "down")))
        self.input_norm = folded_norm(input_norm, eps)
        self.mlp_norm = folded_norm(mlp_norm, eps)

    def feed_forward(self, hidden: Tensor) -> Tensor:
        """`hidden` [R, H] plus its SwiGLU feed-forward."""
        return self.down.add_to(hidden, self.gated(self.mlp_norm(hidden)))


class FusedModel:
    """Embed, run any range of layers, read logits: on flat rows.

    rotations: rotary factors, to be indexed by position. idle_engines: engines with their caches
    and recordings, for the next decoding to use (engine/engines.py).
    """

    def __init__(
        self,
        weights: Weights,
        *,
        make_engine: Callable[[FusedModel, int], Any] | None = None,
    ) -> None:
        """Copy and fuse weights, one layer after the other: nothing large is held twice.

        make_engine: makes an `Engine` for that many positions; default: that of the device.
        """
        self.config = config = weights.config
        self.device, self.dtype = weights.device, weights.dtype
        # The head first, while there is room: to be packed, it is held twice.
        joined = Joined(weights)
        self.embedding = joined("model.embed_tokens.weight", is_kept=True)
        tied = config.tie_word_embeddings
        self.unembed = product(self.embedding if tied else joined("lm_head.weight"))
        joined = Joined(weights)
        self.layers = [
            FusedLayer(joined, f"model.layers.{index}", config)
            for index in range(config.num_layers)
        ]
        self.final_norm = norm(joined("model.norm.weight"), config.rms_norm_eps)
        self.rotations = self._rotations(config.max_positions)
        self.make_engine = make_engine
        self.idle_engines: list[Any] = []
        del joined
        return_freed_memory()
        # At batch 1, packed products were up to 5 % slower with it.
        if not is_packed(config.largest_product, self.device, self.dtype):
            keep_freed_memory()

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
            only_read: the last of these layers returns only the rows that are read: of the others,
                only keys and values are needed, which are stored by then.

        Returns [R, H], or [M, H] with `only_read`.
        """
        qkv: Tensor | None = None
        for index in range(start, stop):
            layer = self.layers[index]
            # What the layer before left in it is no longer needed, and views of it stay valid.
            written = layer.qkv(layer.input_norm(hidden), out=qkv)
            if written is not qkv:
                qkv, turned = written, self._turned(written)
            self._rotate(turned, rotation)
            last = only_read and index == stop - 1
            mixed = attend(index, qkv, only_read=last)
            if last:
                hidden = attend.read_rows(hidden)
            if hidden.shape[0]:
                hidden = layer.feed_forward(layer.output.add_to(hidden, mixed))
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Final norm and language-model head: [M, H] to new float32 logits [M, V]."""
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

    def _turned(self, qkv: Tensor) -> Tensor:
        """Queries and keys in `qkv` [R, (heads + 2 kv_heads) d], as what is rotated.

        Complex [R, heads + kv_heads, d / 2] in float32; else [R, heads + kv_heads, d].
        """
        rows, width = qkv.shape
        d = self.config.head_dim
        heads = self.config.num_heads + self.config.num_kv_heads
        if self.dtype != torch.float32:
            return qkv.as_strided((rows, heads, d), (width, d, 1))
        return torch.view_as_complex(qkv.as_strided((rows, heads, d // 2, 2), (width, d, 2, 1)))

    def _rotate(self, turned: Tensor, rotation: Tensor) -> None:
        """Apply rotary positions to `turned`, in place."""
        if self.dtype == torch.float32:
            turned.mul_(rotation)
            return
        half = self.config.head_dim // 2
        cos, sin = rotation[..., : 2 * half], rotation[..., 2 * half :]
        rotated = turned * cos
        rotated[..., :half].addcmul_(turned[..., half:], sin, value=-1)
        rotated[..., half:].addcmul_(turned[..., :half], sin)
        turned.copy_(rotated)


def fused(model: BlockDiffusionModel | FusedModel) -> FusedModel:
    """Return the fused form of a model in either form; a plain one keeps its weights."""
    return model if isinstance(model, FusedModel) else FusedModel(model)


def fused_bytes(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> int:
    """Return the memory of a model's weights in their fused form."""
    numbers, embedding = config.parameters, config.vocab_size * config.hidden_size
    # Its rows cannot be looked up in the layout of products.
    is_twice = config.tie_word_embeddings and is_rearranged(device, dtype)
    return (numbers + embedding * is_twice) * dtype.itemsize


def norm(weight: Tensor, eps: float) -> Norm:
    """RMSNorm over the last dimension, with statistics in float32."""
    if weight.dtype != torch.float32:
        return lambda x: F.rms_norm(x, weight.shape, weight, eps)
    scale, unscaled = input_scale(weight), folded_norm(weight, eps)
    return lambda x: unscaled(x).mul_(scale)


def folded_norm(weight: Tensor, eps: float) -> Norm:
    """In float32, the norm without its weight, which the next product contains (`input_scale`).

    x / rms(x) is sqrt(n) x / hypot(||x||, sqrt(n eps)): the same in half as many operations.
    """
    if weight.dtype != torch.float32:
        return norm(weight, eps)
    floor = torch.tensor((weight.numel() * eps) ** 0.5, device=weight.device)
    return lambda x: torch.div(x, torch.linalg.vector_norm(x, 2, -1, True).hypot_(floor))


def input_scale(weight: Tensor) -> Tensor:
    """Return the factor that `folded_norm` leaves out, for the inputs of the next product."""
    return weight * weight.numel() ** 0.5


def _interleaved(config: ModelConfig) -> Tensor:
    """Return the order of the fused weight's rows that puts each rotated pair side by side.

    Queries and keys in the same order have the same dot products; a pair is then one complex
    number, and a rotation one multiplication.
    """
    d = config.head_dim
    pairs = torch.arange(d).view(2, d // 2).t().reshape(-1)
    turned = (torch.arange(config.num_heads + config.num_kv_heads)[:, None] * d + pairs).view(-1)
    value_rows = torch.arange(config.num_kv_heads * d) + turned.numel()
    return torch.cat((turned, value_rows))
