"""What a checkpoint's config.json says: shapes, constants and special tokens. Imports no torch.

Layers, heads, vocabulary, tying and special tokens are read, never assumed. Also names the folder
of the embedded model.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdllm.common.errors import UserError
from fastdllm.common.files import read_json_object

# The model that ships with the project, so that every command works without a download.
EMBEDDED_MODEL = Path(__file__).resolve().parents[2] / "models" / "tiny"

# The published models name their mask in the tokenizer only.
MASK_TOKEN = "|<MASK>|"
# What this project decodes: `model_type` and `architectures` of config.json. Plain Qwen2 has the
# same layers; its block size has to be given.
MODEL_TYPES = ("Fast_dLLM_Qwen", "qwen2")
ARCHITECTURES = ("Fast_dLLM_QwenForCausalLM", "Qwen2ForCausalLM")
# Of layers, widths and positions: a larger number is a damaged file, and fills the memory.
LARGEST_SIZE = 2**24


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shapes and constants of a checkpoint, as read from its config.json.

    block_size: tokens per block in training; None if it does not say.
    stop_tokens: each ends an answer.
    """

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    rope_theta: float
    rms_norm_eps: float
    tie_word_embeddings: bool
    max_positions: int
    block_size: int | None = None
    mask_id: int | None = None
    stop_tokens: tuple[int, ...] = ()
    pad_id: int | None = None

    @property
    def parameters(self) -> int:
        """Weights and biases of the network; a tied head is the embedding."""
        hidden, query = self.hidden_size, self.num_heads * self.head_dim
        kv_width = self.num_kv_heads * self.head_dim
        attention = 2 * hidden * query + query + 2 * (hidden * kv_width + kv_width)
        layer = attention + 3 * hidden * self.intermediate_size + 2 * hidden
        embeddings = self.vocab_size * hidden * (1 if self.tie_word_embeddings else 2)
        return self.num_layers * layer + embeddings + hidden

    @property
    def largest_product(self) -> int:
        """Weights of the largest product of a layer: gate and up in one."""
        return 2 * self.intermediate_size * self.hidden_size


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What decoding settings must fit (see `ModelConfig`)."""

    num_layers: int
    block_size: int | None
    vocab_size: int


def read_config(folder: Path) -> ModelConfig:
    """Read shapes and special tokens from a folder's config.json.

    The stop tokens of generation_config.json and the tokenizer's `eos_token` count as well.

    Raises:
        UserError: the file is missing or broken, a key is missing, or the layers are of a kind that
            this project does not run.
    """
    file = folder / "config.json"
    raw = _read(file)
    _refuse_unsupported(file, raw)
    num_heads, hidden = _whole(file, raw, "num_attention_heads"), _whole(file, raw, "hidden_size")
    rope = raw.get("rope_parameters") or {}
    turning = raw if rope.get("rope_theta") is None else rope
    vocab_size = _whole(file, raw, "vocab_size")
    mask_id = _token(file, "mask_token_id", raw.get("mask_token_id"), vocab_size)
    tokens = _ids_of_tokenizer(folder)
    of_tokenizer = _token(folder / "tokenizer.json", MASK_TOKEN, tokens.get(MASK_TOKEN), vocab_size)
    if None not in (mask_id, of_tokenizer) and mask_id != of_tokenizer:
        raise UserError(
            f"{file}: mask_token_id is {mask_id}, but {MASK_TOKEN} of tokenizer.json is "
            f"{of_tokenizer}; correct the one that is wrong"
        )
    mask_id = of_tokenizer if mask_id is None else mask_id
    tied = raw.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        raise UserError(
            f"{file}: tie_word_embeddings: {tied!r} is not allowed; it should be true or false"
        )
    num_kv_heads = _whole(file, raw, "num_key_value_heads", default=num_heads)
    if num_heads % num_kv_heads:
        raise UserError(f"{file}: {num_heads} heads are not a multiple of {num_kv_heads} kv heads")
    head_dim = _whole(file, raw, "head_dim", default=hidden // num_heads)
    if head_dim % 2:
        raise UserError(f"{file}: head_dim {head_dim} is odd; positions turn halves of a head")
    return ModelConfig(
        num_layers=_whole(file, raw, "num_hidden_layers"),
        hidden_size=hidden,
        intermediate_size=_whole(file, raw, "intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        vocab_size=vocab_size,
        rope_theta=_number(file, turning, "rope_theta", default=10_000.0),
        rms_norm_eps=_number(file, raw, "rms_norm_eps", default=1e-6),
        tie_word_embeddings=tied,
        max_positions=_whole(file, raw, "max_position_embeddings", default=32_768),
        block_size=_block_size(file, raw),
        mask_id=mask_id,
        stop_tokens=_stop_tokens(folder, tokens, vocab_size),
        pad_id=_token(file, "pad_token_id", raw.get("pad_token_id"), vocab_size),
    )


def read_shape(folder: Path) -> ModelShape:
    """Read only what settings must fit, whatever the other keys are.

    Raises:
        UserError: the file is missing or broken, or does not say how many layers there are.
    """
    file = folder / "config.json"
    raw = _read(file)
    return ModelShape(
        num_layers=_whole(file, raw, "num_hidden_layers"),
        block_size=_block_size(file, raw),
        vocab_size=_whole(file, raw, "vocab_size", default=LARGEST_SIZE),
    )


def _read(file: Path) -> dict[str, Any]:
    if not file.exists():
        raise UserError(f"{file}: not found; a checkpoint folder needs {file.name}")
    return read_json_object(file)


def _whole(file: Path, raw: dict[str, Any], key: str, default: int | None = None) -> int:
    value = raw.get(key)
    if value is None:
        value = default
    if value is None:
        raise UserError(f"{file}: key {key!r} is missing; is this a Qwen2-style checkpoint?")
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST_SIZE:
        raise UserError(
            f"{file}: {key}: {value!r} is not allowed; it should be a whole number from 1 to "
            f"{LARGEST_SIZE}"
        )
    return value


def _block_size(file: Path, raw: dict[str, Any]) -> int | None:
    return None if raw.get("bd_size") is None else _whole(file, raw, "bd_size")


def _number(file: Path, raw: dict[str, Any], key: str, default: float) -> float:
    value = raw.get(key)
    value = default if value is None else value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # A NaN is not greater than 0 either.
    if not is_number or not 0 < value <= sys.float_info.max:
        raise UserError(f"{file}: {key}: {value!r} is not allowed; it should be a number > 0")
    return float(value)


def _token(file: Path, key: str, value: Any, vocab_size: int) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < vocab_size:
        raise UserError(
            f"{file}: {key}: {value!r} is not allowed; it should be the id of a token, 0 to "
            f"{vocab_size - 1}"
        )
    return value


def _stop_tokens(folder: Path, ids: dict[str, Any], vocab_size: int) -> tuple[int, ...]:
    """Return the stop tokens of config.json, then those that only other files name.

    ids: of the tokenizer's tokens; its `eos_token` ends what it was trained on.
    """
    tokens: dict[int | None, None] = {}
    for name in ("config.json", "generation_config.json"):
        file, key = folder / name, "eos_token_id"
        named = read_json_object(file).get(key) if file.is_file() else None
        for token in named if isinstance(named, list) else [named]:
            tokens[_token(file, key, token, vocab_size)] = None
    file, key = folder / "tokenizer_config.json", "eos_token"
    end = read_json_object(file).get(key) if file.is_file() else None
    text = end.get("content") if isinstance(end, dict) else end
    if isinstance(text, str):
        tokens[_token(file, key, ids.get(text), vocab_size)] = None
    return tuple(token for token in tokens if token is not None)


def _refuse_unsupported(file: Path, raw: dict[str, Any]) -> None:
    for key, known in (("model_type", MODEL_TYPES), ("architectures", ARCHITECTURES)):
        names = raw.get(key) or []
        for name in names if isinstance(names, list) else [names]:
            if name not in known:
                raise UserError(
                    f"{file}: {key}: {name!r} is not supported; it should be {' or '.join(known)}"
                )
    if not raw.get("model_type") and not raw.get("architectures"):
        raise UserError(f"{file}: names no model_type; it should be {' or '.join(MODEL_TYPES)}")
    rope, kinds = raw.get("rope_parameters") or {}, raw.get("layer_types") or []
    if not isinstance(rope, dict) or not isinstance(kinds, list):
        raise UserError(f"{file}: rope_parameters or layer_types is not what Qwen2 writes")
    refused = {
        "hidden_act": raw.get("hidden_act", "silu") != "silu",
        "use_sliding_window": bool(raw.get("use_sliding_window")),
        "rope_scaling": raw.get("rope_scaling") is not None,
        # Everything else changes positions: another type, also under its old key `type`, its
        # numbers, or an entry for each kind of layer.
        "rope_parameters": any(v != "default" for key, v in rope.items() if key != "rope_theta"),
        "layer_types": any(kind != "full_attention" for kind in kinds),
        "attention_bias": raw.get("attention_bias") not in (None, True),
        "quantization_config": raw.get("quantization_config") is not None,
    }
    for key, is_refused in refused.items():
        if is_refused:
            raise UserError(
                f"{file}: {key}: {raw.get(key)!r} is not supported; only Qwen2.5 layers are"
            )
    bases = [values.get("rope_theta") for values in (raw, rope)]
    if None not in bases and bases[0] != bases[1]:
        raise UserError(
            f"{file}: rope_theta is {bases[0]!r}, but {bases[1]!r} in rope_parameters; correct the "
            "one that is wrong"
        )


def _ids_of_tokenizer(folder: Path) -> dict[str, Any]:
    """Return the ids of a tokenizer's added tokens, by their texts; none without its files."""
    file, config = folder / "tokenizer.json", folder / "tokenizer_config.json"
    added = read_json_object(file).get("added_tokens") or () if file.is_file() else ()
    decoder = read_json_object(config).get("added_tokens_decoder") if config.is_file() else None
    try:
        named = {token["content"]: int(key) for key, token in (decoder or {}).items()}
        return named | {token.get("content"): token["id"] for token in reversed(added)}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as a tokenizer: {error}") from None
