"""The tiny model's shape, its initial weights, and its Hugging Face folder.

The network itself is the project's own `BlockDiffusionModel`; nothing here computes a forward pass.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from fastdllm.common.files import write_json_atomically
from fastdllm.model.config import ModelConfig
from fastdllm.model.plain import BlockDiffusionModel
from training.data import BLOCK_SIZE
from training.tokenizer import VOCAB_SIZE

# Fewer, wider layers learn faster, but then a third of the layers is no meaningful span to reuse.
LAYERS, HIDDEN, INTERMEDIATE, HEADS, HEAD_DIM = 14, 64, 192, 4, 16
MAX_POSITIONS = 2048


def build_config(*, mask_id: int, stop_token: int, pad_id: int) -> ModelConfig:
    """The shape of the tiny model, with the special tokens of its tokenizer."""
    return ModelConfig(
        num_layers=LAYERS,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_heads=HEADS,
        num_kv_heads=HEADS,
        head_dim=HEAD_DIM,
        vocab_size=VOCAB_SIZE,
        rope_theta=10000.0,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        max_positions=MAX_POSITIONS,
        block_size=BLOCK_SIZE,
        mask_id=mask_id,
        stop_tokens=(stop_token,),
        pad_id=pad_id,
    )


def build_model(config: ModelConfig, *, seed: int) -> BlockDiffusionModel:
    """A fresh model with random weights, the same for the same seed.

    Projections that write to the residual stream start smaller by sqrt(2 * layers), as in GPT-2.
    """
    torch.manual_seed(seed)
    model = BlockDiffusionModel(config)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            scale = math.sqrt(1 / module.in_features)
            if name.endswith(("o_proj", "down_proj")):
                scale /= math.sqrt(2 * config.num_layers)
            nn.init.normal_(module.weight, std=scale)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=1 / math.sqrt(config.hidden_size))
    return model


def write_weights(model: BlockDiffusionModel, path: Path) -> None:
    """Write the state dict as safetensors; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.tmp")
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, partial, metadata={"format": "pt"})
    partial.replace(path)


def write_config(config: ModelConfig, folder: Path) -> None:
    """Write config.json with the field names of Qwen2 and Fast-dLLM v2."""
    write_json_atomically(
        folder / "config.json",
        {
            "architectures": ["Fast_dLLM_QwenForCausalLM"],
            "model_type": "Fast_dLLM_Qwen",
            "attention_dropout": 0.0,
            "bd_size": config.block_size,
            "bos_token_id": config.pad_id,
            "eos_token_id": config.stop_tokens[0],
            "mask_token_id": config.mask_id,
            "pad_token_id": config.pad_id,
            "hidden_act": "silu",
            "hidden_size": config.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": config.intermediate_size,
            "max_position_embeddings": config.max_positions,
            "max_window_layers": config.num_layers,
            "num_attention_heads": config.num_heads,
            "num_hidden_layers": config.num_layers,
            "num_key_value_heads": config.num_kv_heads,
            "rms_norm_eps": config.rms_norm_eps,
            "rope_theta": config.rope_theta,
            "tie_word_embeddings": config.tie_word_embeddings,
            "torch_dtype": "float32",
            "use_cache": True,
            "use_sliding_window": False,
            "vocab_size": config.vocab_size,
        },
    )


def count_parameters(model: nn.Module) -> int:
    """Number of trained weights; a tied head counts once."""
    return sum(parameter.numel() for parameter in model.parameters())
