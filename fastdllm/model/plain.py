"""The network in its plain form: Qwen2.5 decoder layers as published, to train and as a reference.

Owns the forward pass only; knows nothing of caches, mask tokens, policies, tokenizers or files.
Module names equal those of the Hugging Face checkpoint, so a state dict loads unchanged. Decoding
uses the same network in the form of fused.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdllm.model.config import ModelConfig


class RMSNorm(nn.Module):
    """Root-mean-square norm; the statistics in float32, the weight in the activation dtype."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions (rotate-half form on the whole head)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        self.head_dim = config.head_dim
        width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, width, bias=True)
        self.k_proj = nn.Linear(config.hidden_size, kv_width, bias=True)
        self.v_proj = nn.Linear(config.hidden_size, kv_width, bias=True)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=False)

    def forward(
        self,
        x: Tensor,
        *,
        rotation: tuple[Tensor, Tensor],
        mask: Tensor | None,
    ) -> Tensor:
        # x: [B, T, H]
        batch, length, _ = x.shape
        query = self.q_proj(x).view(batch, length, self.num_heads, self.head_dim).transpose(1, 2)
        key = self.k_proj(x).view(batch, length, self.num_kv_heads, self.head_dim).transpose(1, 2)
        value = self.v_proj(x).view(batch, length, self.num_kv_heads, self.head_dim).transpose(1, 2)
        query, key = rotate(query, *rotation), rotate(key, *rotation)
        grouped = self.num_kv_heads != self.num_heads
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, enable_gqa=grouped
        )
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))


class MLP(nn.Module):
    """SwiGLU feed-forward layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One pre-norm decoder layer: attention and feed-forward, each with its residual."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        hidden: Tensor,
        *,
        rotation: tuple[Tensor, Tensor],
        mask: Tensor | None,
    ) -> Tensor:
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), rotation=rotation, mask=mask)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class Body(nn.Module):
    """The checkpoint's `model.` prefix: embedding, layers, final norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        weight = torch.empty(config.vocab_size, config.hidden_size)
        if not weight.is_meta:  # on meta it would do nothing but import torch's compiler
            nn.init.normal_(weight)
        self.embed_tokens = nn.Embedding.from_pretrained(weight, freeze=False)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class BlockDiffusionModel(nn.Module):
    """Embed, run any range of layers, read logits.

    A forward is `head(run_layers(embed(tokens), 0, num_layers, ...))`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Body(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def device(self) -> torch.device:
        return self.model.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.embed_tokens.weight.dtype

    def shape(self, name: str) -> torch.Size:
        """Return the shape of the weight `name`."""
        return self.get_parameter(name).shape

    def write(self, name: str, out: Tensor) -> None:
        """Copy the weight `name` to `out`."""
        out.copy_(self.get_parameter(name).detach())

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids [B, T] to hidden states [B, T, H]."""
        return self.model.embed_tokens(tokens)

    def run_layers(
        self,
        hidden: Tensor,
        start: int,
        stop: int,
        *,
        positions: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Run layers `start` <= i < `stop` on `hidden` [B, T, H] and return the same shape.

        Args:
            positions: absolute positions, [T] or [B, T].
            mask: bool, True where a query may attend; broadcastable to [B, heads, T, T]. None means
                that every key is visible.
        """
        rotation = self.rotation(positions, hidden.dtype)
        for index in range(start, stop):
            hidden = self.model.layers[index](hidden, rotation=rotation, mask=mask)
        return hidden

    def head(self, hidden: Tensor) -> Tensor:
        """Final norm and language-model head: [..., H] to logits [..., vocab]."""
        weight = (
            self.model.embed_tokens.weight
            if self.config.tie_word_embeddings
            else self.lm_head.weight
        )
        return F.linear(self.model.norm(hidden), weight)

    def rotation(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines for `positions` [T] or [B, T]: each [B or 1, 1, T, d].

        Angles are float32 whatever `dtype`. Source: RoFormer (arXiv 2104.09864), eq. 15, in the
        rotate-half layout of Qwen2.
        """
        d = self.config.head_dim
        exponents = torch.arange(0, d, 2, device=positions.device, dtype=torch.float32) / d
        frequencies = 1.0 / self.config.rope_theta**exponents
        if positions.dim() == 1:
            positions = positions[None]
        angles = positions[:, None, :, None].float() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to `x` [B, heads, T, d]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
