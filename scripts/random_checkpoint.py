"""Write a checkpoint with random weights, laid out as the published ones are.

`python -m scripts.random_checkpoint 7b FOLDER` writes 15 GB in three files, `1.5b` 3 GB in one.
Both are then a model as any other (`model.path`), but without a tokenizer, which `--tokenizer`
copies from another folder. With `--hidden-size` and `--layers` they are smaller, and of the same
layout.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from fastdllm.model.checkpoint import WEIGHT_INDEX, WEIGHTS
from fastdllm.model.config import ARCHITECTURES, MODEL_TYPES, ModelConfig
from fastdllm.tools.bench.random_models import SHAPES, RandomWeights

# The files of weights of the published layouts.
FILES = {"7b": 3, "1.5b": 1}
# Ids of Qwen2.5's tokenizer: of the end of a text, and of a turn.
ENDOFTEXT, IM_END = 151_643, 151_645
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def published_config(config: ModelConfig) -> dict[str, Any]:
    """Return what the published config.json says of a model; the mask is the tokenizer's."""
    code = MODEL_TYPES[0]
    return {
        "architectures": [ARCHITECTURES[0]],
        "attention_dropout": 0.0,
        "auto_map": {
            "AutoConfig": f"configuration.{code}Config",
            "AutoModel": f"modeling.{code}Model",
            "AutoModelForCausalLM": f"modeling.{ARCHITECTURES[0]}",
        },
        "bd_size": config.block_size,
        "bos_token_id": ENDOFTEXT,
        "eos_token_id": IM_END,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "layer_types": ["full_attention"] * config.num_layers,
        "max_position_embeddings": config.max_positions,
        "max_window_layers": config.num_layers,
        "model_type": code,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_kv_heads,
        "pad_token_id": IM_END,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_scaling": None,
        "rope_theta": config.rope_theta,
        "sliding_window": None,
        "tie_word_embeddings": config.tie_word_embeddings,
        "torch_dtype": "bfloat16",
        "use_cache": False,
        "use_sliding_window": False,
        "vocab_size": config.vocab_size,
    }


def narrow(config: ModelConfig, hidden_size: int, layers: int) -> ModelConfig:
    """Return the same layout with fewer numbers: the heads, but smaller, and all tokens."""
    return replace(
        config,
        hidden_size=hidden_size,
        intermediate_size=config.intermediate_size * hidden_size // config.hidden_size,
        head_dim=hidden_size // config.num_heads,
        num_layers=layers,
    )


def write_checkpoint(folder: Path, config: ModelConfig, *, files: int) -> None:
    """Write config and weights, in bfloat16; several files get an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(published_config(config), indent=2))
    stops = {"eos_token_id": [IM_END, ENDOFTEXT], "pad_token_id": ENDOFTEXT, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(stops, indent=2))
    weights = RandomWeights(config, device=torch.device("cpu"), dtype=torch.bfloat16)
    total = sum(shape.numel() for shape in weights.shapes.values()) * 2
    tensors = list(weights.shapes)
    ends = [index * len(tensors) // files for index in range(files + 1)]
    parts = [tensors[start:end] for start, end in pairwise(ends)]
    names = [f"model-{n:05}-of-{files:05}.safetensors" for n in range(1, files + 1)]
    for file, part in zip([WEIGHTS] if files == 1 else names, parts, strict=True):
        made = {name: torch.empty(weights.shape(name), dtype=torch.bfloat16) for name in part}
        for name, weight in made.items():
            weights.write(name, weight)
        save_file(made, folder / file, metadata={"format": "pt"})
    if files > 1:
        placed = {name: file for file, part in zip(names, parts, strict=True) for name in part}
        index = {"metadata": {"total_size": total}, "weight_map": placed}
        (folder / WEIGHT_INDEX).write_text(json.dumps(index, indent=2))


def main() -> None:
    """Write one as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(FILES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hidden-size", type=int, help="default: the published one")
    parser.add_argument("--layers", type=int, help="default: the published number")
    parser.add_argument("--tokenizer", type=Path, help="folder with the tokenizer to copy")
    options = parser.parse_args()
    config = SHAPES[options.name]
    hidden = options.hidden_size or config.hidden_size
    if hidden % (2 * config.num_heads):
        parser.error(f"--hidden-size: {hidden} is no multiple of {2 * config.num_heads}")
    if options.tokenizer and not (options.tokenizer / TOKENIZER_FILES[0]).is_file():
        parser.error(f"--tokenizer: no {TOKENIZER_FILES[0]} in {options.tokenizer}")
    config = narrow(config, hidden, options.layers or config.num_layers)
    write_checkpoint(options.folder, config, files=FILES[options.name])
    for name in TOKENIZER_FILES:
        if options.tokenizer and (options.tokenizer / name).is_file():
            shutil.copy(options.tokenizer / name, options.folder)


if __name__ == "__main__":
    main()
