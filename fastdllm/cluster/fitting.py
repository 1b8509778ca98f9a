"""How much memory of a GPU a model needs at the least, told from its config.json alone.

Weights, one sequence, and what CUDA itself takes; what is left over decides how many sequences are
decoded at once, which decoding/memory.py finds out on the card. Imports no torch: it is asked on a
log-in node before a job is submitted. Of a model that was not fetched yet it knows nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdllm.machine.hub_cache import snapshot

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

    A config.json that cannot be used is not told here: planning, which reads it first, does.
    """
    local = Path(path).expanduser()
    folder = local if local.is_dir() else snapshot(path, revision)
    if folder is None:
        return None
    try:
        return _shape(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _shape(raw: Mapping[str, Any]) -> Shape:
    hidden, layers = int(raw["hidden_size"]), int(raw["num_hidden_layers"])
    heads, vocab = int(raw["num_attention_heads"]), int(raw["vocab_size"])
    head_dim = int(raw.get("head_dim") or hidden // heads)
    kv_width = int(raw.get("num_key_value_heads") or heads) * head_dim
    query = heads * head_dim
    attention = 2 * hidden * query + query + 2 * (hidden * kv_width + kv_width)
    layer = attention + 3 * hidden * int(raw["intermediate_size"]) + 2 * hidden
    embeddings = vocab * hidden * (1 if raw.get("tie_word_embeddings") else 2)
    return Shape(
        n_parameters=layers * layer + embeddings + hidden,
        num_layers=layers,
        kv_width=kv_width,
        vocab_size=vocab,
    )
