"""Models of known shapes with random weights, made where they run: speed without a download.

Random weights are never sure of a token, so a denoising step commits one at any realistic
threshold: passes per second are those of a trained model, tokens per forward are not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastdllm.common.errors import UserError, unknown_name
from fastdllm.machine.device import free_bytes
from fastdllm.model.config import ModelConfig
from fastdllm.model.fused import FusedModel, fused_bytes
from fastdllm.model.loading import resolve_device, resolve_dtype
from fastdllm.model.plain import BlockDiffusionModel

PREFIX = "random:"
SEED, STANDARD_DEVIATION = 0, 0.02


def _shape(
    layers: int,
    hidden: int,
    intermediate: int,
    heads: tuple[int, int],
    head_dim: int,
    vocab: int,
    positions: int,
    *,
    tied: bool,
) -> ModelConfig:
    """A config without a stop token, so that every answer has the length asked for.

    heads: of queries, and of keys and values.
    """
    return ModelConfig(
        num_layers=layers,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_heads=heads[0],
        num_kv_heads=heads[1],
        head_dim=head_dim,
        vocab_size=vocab,
        rope_theta=1_000_000.0,
        rms_norm_eps=1e-6,
        tie_word_embeddings=tied,
        max_positions=positions,
        block_size=32,
        mask_id=vocab - 1,
    )


# 1.5b and 7b: the shapes of Fast-dLLM v2 (Qwen2.5); 42m: what a CPU runs in float32.
SHAPES = {
    "42m": _shape(12, 512, 1536, (8, 8), 64, 8192, 2048, tied=True),
    "1.5b": _shape(28, 1536, 8960, (12, 2), 128, 151_936, 32_768, tied=True),
    "7b": _shape(28, 3584, 18_944, (28, 4), 128, 152_064, 32_768, tied=False),
}


def random_model(name: str, *, device: str = "auto", dtype: str = "auto") -> FusedModel:
    """The model `random:NAME`, with the same weights for each call on one device and dtype.

    Args:
        name: one of `SHAPES` behind the prefix, such as "random:7b".
        device, dtype: as in `load_model`.

    Raises:
        UserError: an unknown name, device or dtype, or a model larger than the free memory.
    """
    config = random_config(name)
    target = resolve_device(device)
    kind = resolve_dtype(dtype, target)
    weights = RandomWeights(config, device=target, dtype=kind)
    needed, free = fused_bytes(config, target, kind), free_bytes(target)
    if needed > free:
        raise UserError(
            f"{name} in {str(kind).removeprefix('torch.')} needs {needed / 2**30:.1f} GiB, but "
            f"{device} has {free / 2**30:.1f} GiB free; choose a smaller model or half precision"
        )
    return FusedModel(weights)


def random_config(name: str) -> ModelConfig:
    """Return the shapes of the model `random:NAME`.

    Raises:
        UserError: an unknown name.
    """
    shape = name.removeprefix(PREFIX)
    if shape not in SHAPES:
        raise unknown_name("random model", name, [PREFIX + shape_name for shape_name in SHAPES])
    return SHAPES[shape]


class RandomWeights:
    """`Weights` from a seed: normal, but norms are 1; the same whatever order they are asked in."""

    def __init__(self, config: ModelConfig, *, device: torch.device, dtype: torch.dtype) -> None:
        self.config, self.device, self.dtype = config, device, dtype
        with torch.device("meta"):
            state = BlockDiffusionModel(config).state_dict()
        self.shapes = {name: weight.shape for name, weight in state.items()}
        self._seeds = {name: SEED + index for index, name in enumerate(self.shapes)}

    def shape(self, name: str) -> torch.Size:
        """Return the shape of a weight."""
        return self.shapes[name]

    def write(self, name: str, out: Tensor) -> None:
        """Fill `out` with the numbers of a weight."""
        if name.endswith("norm.weight"):
            out.fill_(1)
            return
        generator = torch.Generator(self.device).manual_seed(self._seeds[name])
        out.normal_(std=STANDARD_DEVIATION, generator=generator)
