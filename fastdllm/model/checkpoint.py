"""A checkpoint folder or hub id: where its files are and what its config.json says.

Layers, heads, vocabulary, tying and special tokens are read, never assumed. Knows nothing of
devices or dtypes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastdllm.common.errors import UserError, nearest_name
from fastdllm.model.config import ModelConfig

# The mask token of the published models; their config.json does not name it.
MASK_TOKEN, PUBLISHED_MASK_ID = "|<MASK>|", 151665

FILES_NEEDED = ["*.json", "*.safetensors", "merges.txt", "*.jinja"]


def find_checkpoint(path: str | Path, revision: str | None = None) -> Path:
    """The local folder of a checkpoint; a hub id is downloaded or taken from the cache.

    Raises:
        UserError: there is no such folder, or the hub does not give it.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    name = str(path)
    is_hub_id = name.count("/") == 1 and not name.startswith((".", "/", "~"))
    if not is_hub_id or folder.exists() or folder.parent.is_dir():
        near = nearest_name(name, [str(p.parent) for p in folder.parent.glob("*/config.json")])
        hint = f"did you mean {near!r}?" if near else "give a checkpoint folder or a hub id"
        raise UserError(f"model {name!r}: no such folder; {hint}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=FILES_NEEDED))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        line = " ".join(str(error).split())[:200]
        raise UserError(
            f"model {name!r}: no such folder here, and the hub did not give it ({line}); "
            "fetch it on a machine with network access first: hf download " + name
        ) from error


def read_config(folder: Path) -> ModelConfig:
    """Read shapes and special tokens from config.json; nothing is hard-coded.

    Raises:
        UserError: the file is missing or broken, a key is missing, or the layers are of a kind that
            this project does not run.
    """
    file = folder / "config.json"
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file}: not found; a checkpoint folder needs config.json") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{file}: cannot be read as JSON: {error}") from None
    _refuse_unsupported(file, raw)
    num_heads, hidden = _whole(file, raw, "num_attention_heads"), _whole(file, raw, "hidden_size")
    rope = raw.get("rope_parameters") or {}
    vocab_size = _whole(file, raw, "vocab_size")
    mask_id = raw.get("mask_token_id", _mask_id_of_tokenizer(folder))
    if mask_id is None and vocab_size > PUBLISHED_MASK_ID:
        mask_id = PUBLISHED_MASK_ID
    num_kv_heads = _whole(file, raw, "num_key_value_heads", default=num_heads)
    if num_heads % num_kv_heads:
        raise UserError(f"{file}: {num_heads} heads are not a multiple of {num_kv_heads} kv heads")
    stops = raw.get("eos_token_id")
    stop = next(iter(stops), None) if isinstance(stops, list) else stops
    return ModelConfig(
        num_layers=_whole(file, raw, "num_hidden_layers"),
        hidden_size=hidden,
        intermediate_size=_whole(file, raw, "intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=_whole(file, raw, "head_dim", default=hidden // num_heads),
        vocab_size=vocab_size,
        rope_theta=_number(file, {**raw, **rope}, "rope_theta", default=10_000.0),
        rms_norm_eps=_number(file, raw, "rms_norm_eps", default=1e-6),
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
        max_positions=_whole(file, raw, "max_position_embeddings", default=32_768),
        block_size=_whole(file, raw, "bd_size", default=32),
        mask_id=_token(file, "mask_token_id", mask_id),
        stop_token=_token(file, "eos_token_id", stop),
        pad_id=_token(file, "pad_token_id", raw.get("pad_token_id")),
    )


def _whole(file: Path, raw: dict[str, Any], key: str, default: int | None = None) -> int:
    value = raw.get(key)
    if value is None:
        value = default
    if value is None:
        raise UserError(f"{file}: key {key!r} is missing; is this a Qwen2-style checkpoint?")
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{file}: {key}: {value!r} is not allowed; it should be a whole number > 0")
    return value


def _number(file: Path, raw: dict[str, Any], key: str, default: float) -> float:
    value = raw.get(key)
    value = default if value is None else value
    # A NaN is not greater than 0 either.
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        raise UserError(f"{file}: {key}: {value!r} is not allowed; it should be a number > 0")
    return float(value)


def _token(file: Path, key: str, value: Any) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise UserError(f"{file}: {key}: {value!r} is not allowed; it should be a token id")
    return value


def _refuse_unsupported(file: Path, raw: Any) -> None:
    if not isinstance(raw, dict):
        raise UserError(f"{file}: expected a JSON object")
    rope, kinds = raw.get("rope_parameters") or {}, raw.get("layer_types") or []
    if not isinstance(rope, dict) or not isinstance(kinds, list):
        raise UserError(f"{file}: rope_parameters or layer_types is not what Qwen2 writes")
    refused = {
        "hidden_act": raw.get("hidden_act", "silu") != "silu",
        "use_sliding_window": bool(raw.get("use_sliding_window")),
        "rope_scaling": raw.get("rope_scaling") is not None,
        "rope_parameters": rope.get("rope_type", "default") != "default",
        "layer_types": any(kind != "full_attention" for kind in kinds),
        "attention_bias": raw.get("attention_bias") is False,
    }
    for key, is_refused in refused.items():
        if is_refused:
            raise UserError(
                f"{file}: {key}: {raw.get(key)!r} is not supported; only Qwen2.5 layers are"
            )


def _mask_id_of_tokenizer(folder: Path) -> int | None:
    """The id of the added token `|<MASK>|`, where the tokenizer's files name it."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    try:
        added = json.loads(file.read_text(encoding="utf-8")).get("added_tokens", [])
        return next((token["id"] for token in added if token.get("content") == MASK_TOKEN), None)
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{file}: cannot be read as a tokenizer: {error}") from None


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, in a fixed order.

    Raises:
        UserError: there are none, or the index names one that is missing.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            placed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            names = sorted(set(placed.values()))
        except (OSError, json.JSONDecodeError, KeyError, AttributeError) as error:
            raise UserError(f"{index}: cannot be read as a weight index: {error}") from None
        files = [folder / name for name in names]
        for file in files:
            if not file.is_file():
                raise UserError(f"{file}: not found, but {index.name} names it; fetch it again")
        return files
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(
            f"{folder}: no safetensors weights here; only safetensors checkpoints are loaded"
        )
    return files
