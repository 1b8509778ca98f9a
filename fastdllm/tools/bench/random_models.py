"""Models of known shapes with random weights, made where they run: speed without a download.

Random weights are never sure of a token, so a denoising step commits one at any realistic
threshold: passes per second are those of a trained model, tokens per forward are not.
"""

from __future__ import annotations

import torch

from fastdllm.common.errors import UserError, unknown_name
from fastdllm.machine.device import free_bytes
from fastdllm.model.config import ModelConfig
from fastdllm.model.fused import FusedModel
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
    return FusedModel(filled(name, config, target, kind), consume=True)


def random_config(name: str) -> ModelConfig:
    """Return the shapes of the model `random:NAME`.

    Raises:
        UserError: an unknown name.
    """
    shape = name.removeprefix(PREFIX)
    if shape not in SHAPES:
        raise unknown_name("random model", name, [PREFIX + shape_name for shape_name in SHAPES])
    return SHAPES[shape]


def filled(
    name: str, config: ModelConfig, device: torch.device, dtype: torch.dtype
) -> BlockDiffusionModel:
    """A plain module of `config` with seeded weights: normal, but norms are 1.

    Raises:
        UserError: it does not fit the free memory; `name` says which.
    """
    with torch.device("meta"):
        model = BlockDiffusionModel(config)
    expected = {key: tensor.shape for key, tensor in model.state_dict().items()}
    # One matrix more: the head in its own layout, or a layer on its way into its fused form.
    head = config.vocab_size * config.hidden_size
    needed = (sum(shape.numel() for shape in expected.values()) + head) * dtype.itemsize
    free = free_bytes(device)
    if needed > free:
        raise UserError(
            f"{name} in {str(dtype).removeprefix('torch.')} needs {needed / 2**30:.1f} GiB, but "
            f"{device} has {free / 2**30:.1f} GiB free; choose a smaller model or half precision"
        )
    generator = torch.Generator(device).manual_seed(SEED)
    weights = {
        key: torch.empty(shape, device=device, dtype=dtype) for key, shape in expected.items()
    }
    for key, weight in weights.items():
        if key.endswith("norm.weight"):
            weight.fill_(1)
        else:
            weight.normal_(std=STANDARD_DEVIATION, generator=generator)
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)
