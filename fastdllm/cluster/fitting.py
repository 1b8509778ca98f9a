"""How much memory of a GPU a model needs at the least, told from its config.json alone.

Weights, one sequence, and what CUDA itself takes; what is left over decides how many sequences are
decoded at once, which decoding/memory.py finds out on the card. Imports no torch: it is asked on a
log-in node before a job is submitted. Of a model that was not fetched yet it knows nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fastdllm.common.errors import UserError
from fastdllm.machine.hub_cache import snapshot
from fastdllm.model.config import ModelConfig, read_config

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# An allowance for what no tensor of ours takes: the CUDA context with its kernels, the workspaces
# of the matrix library, the captured graphs.
RUNTIME_GIB = 1.0
# A card has less than its name says: an L40S of 48 GB shows 45 GiB.
USABLE = 0.93
# A prompt with worked examples, in tokens, on top of the answer.
PROMPT = 1024
# Rows whose logits are alive at a time: one block.
BLOCK = 32


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a model takes memory. kv_width: keys and values of one layer, in numbers."""

    n_parameters: int
    num_layers: int
    kv_width: int
    vocab_size: int

    def needed_gib(self, dtype: str, *, max_new_tokens: int) -> float:
        """Least memory of a card that decodes one sequence, in GiB."""
        size = BYTES[dtype]
        positions = PROMPT + max_new_tokens
        cache = positions * self.num_layers * 2 * self.kv_width * size
        # In the model's dtype, in float32, and their softmax.
        logits = BLOCK * self.vocab_size * (size + 8)
        return (self.n_parameters * size + cache + logits) / GIB + RUNTIME_GIB


def fits(needed_gib: float, size_gib: int) -> bool:
    """Whether a card of this size holds it."""
    return needed_gib <= USABLE * size_gib


def card_dtype(dtype: str, *, bfloat16: bool) -> str:
    """The number format on a card; auto takes the better half precision that it has."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if bfloat16 else "float16"


def read_shape(path: str, revision: str | None = None) -> Shape | None:
    """The shape of a checkpoint folder, or of a hub id in the cache; None where it is not known.

    A config.json that cannot be used is no error here: planning reads it as well, and refuses it.
    """
    local = Path(path).expanduser()
    folder = local if local.is_dir() else snapshot(path, revision)
    if folder is None:
        return None
    try:
        config = read_config(folder)
    except UserError:
        return None
    return Shape(
        n_parameters=_parameters(config),
        num_layers=config.num_layers,
        kv_width=config.num_kv_heads * config.head_dim,
        vocab_size=config.vocab_size,
    )


def _parameters(config: ModelConfig) -> int:
    hidden, heads_width = config.hidden_size, config.num_heads * config.head_dim
    kv_width = config.num_kv_heads * config.head_dim
    attention = 2 * hidden * heads_width + heads_width + 2 * (hidden * kv_width + kv_width)
    layer = attention + 3 * hidden * config.intermediate_size + 2 * hidden
    embeddings = config.vocab_size * hidden * (1 if config.tie_word_embeddings else 2)
    return config.num_layers * layer + embeddings + hidden
