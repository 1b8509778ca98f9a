"""From a checkpoint to a model on a device, in a dtype: safetensors only.

Remote code is never run and pickled weights are never opened. What is wrong with a checkpoint is
reported in one line that names the file or the tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fastdllm.common.console import notice
from fastdllm.common.errors import UserError, unknown_name
from fastdllm.model.checkpoint import (
    WEIGHT_INDEX,
    find_checkpoint,
    other_weights,
    weight_files,
    weight_map,
)
from fastdllm.model.config import ModelConfig, read_config
from fastdllm.model.fused import FusedModel
from fastdllm.model.plain import BlockDiffusionModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# The tensors with a row for each token.
VOCABULARY = ("lm_head.weight", "model.embed_tokens.weight")
# Of the files beside the model's, so many are named in a line.
MOST_NAMED = 4
OTHER_HEAD = "has an lm_head.weight of its own, which is used; config.json ties it"

# Training leaves no zeros in this many places of a row side by side. A hole of 4 KB, a page of a
# file, holds at least one part of this length of a row, in two bytes each.
ZEROS_IN_A_ROW = 1024
# Nor so many rows side by side; a single one may be that of a neuron that died.
ROWS_OF_A_HOLE = 4

# bfloat16 needs NVIDIA Ampere (compute capability 8.0) or newer.
BFLOAT16_CAPABILITY = (8, 0)


def model_config(path: str | Path, revision: str | None = None) -> ModelConfig:
    """Read the shapes and special tokens of a checkpoint (arguments as in `load_model`).

    Raises:
        UserError: it is not there, or its config.json is not right.
    """
    return read_config(find_checkpoint(path, revision))


def load_model(
    path: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
) -> FusedModel:
    """Load a Fast-dLLM v2 checkpoint, ready to decode: weights fused and in their fastest layout.

    Args:
        path: a folder with config.json and safetensors, or a Hugging Face hub id.
        device: "auto" (a GPU when there is one), "cpu", "cuda" or "cuda:N".
        dtype: "auto" (see `resolve_dtype`), "float32", "bfloat16" or "float16".
        revision: branch, tag or commit of a hub id.

    Raises:
        UserError: the folder, a key, a tensor or a name is wrong; the message says which.
    """
    plain = load_plain_model(path, device=device, dtype=dtype, revision=revision)
    return FusedModel(plain, consume=True)


def load_plain_model(
    path: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
) -> BlockDiffusionModel:
    """Load a checkpoint as a plain module, to train it or as a reference.

    Arguments and errors are those of `load_model`.
    """
    target = resolve_device(device)
    kind = resolve_dtype(dtype, target)
    folder = find_checkpoint(path, revision)
    config = read_config(folder)
    if has_other_head(folder, config):
        notice(f"{folder}: {OTHER_HEAD}")
        config = replace(config, tie_word_embeddings=False)
    if left := other_weights(folder):
        more = f" and {len(left) - MOST_NAMED} more" if len(left) > MOST_NAMED else ""
        names = ", ".join(left[:MOST_NAMED])
        notice(f"{folder}: not read, as they are no part of the model: {names}{more}")
    _check_last_layer(folder, config)
    with torch.device("meta"):
        model = BlockDiffusionModel(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tensors: dict[str, Tensor] = {}
    origins: dict[str, Path] = {}
    for file, name, tensor in _stored_tensors(folder, expected):
        if origins.setdefault(name, file) != file:
            raise UserError(
                f"{file}: tensor {name} is also in {origins[name].name}; keep one of the two files"
            )
        if tuple(tensor.shape) != expected[name]:
            raise UserError(
                f"{file}: tensor {name} has shape {list(tensor.shape)}, "
                f"but config.json says {list(expected[name])}"
            )
        # A copy: the stored tensor is mapped from the file, and would change with it.
        tensors[name] = tensor.to(device=target, dtype=kind, copy=True)
        if zeros := _rows_with_holes(name, tensors[name]):
            raise UserError(
                f"{file}: tensor {name} holds only zeros in {zeros} row(s), or in long parts of "
                "them, as after an interrupted download; fetch it again (rows that were pruned are "
                "not supported)"
            )
    missing = sorted(set(expected) - set(tensors))
    if missing:
        raise UserError(
            f"{folder}: tensor {missing[0]} is missing from the checkpoint"
            + (f" (and {len(missing) - 1} more)" if len(missing) > 1 else "")
        )
    model.load_state_dict(tensors, assign=True)
    return model.eval().requires_grad_(False)


def resolve_device(name: str) -> torch.device:
    """Return the device that `name` means on this machine.

    Raises:
        UserError: an unknown name, or a GPU that does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, separator, index = name.partition(":")
    if kind not in ("cpu", "cuda") or bool(separator) != index.isdecimal():
        raise unknown_name("device", name, ["auto", "cpu", "cuda", "cuda:0"])
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {name!r}: no CUDA GPU is visible here; use cpu or auto")
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise UserError(f"device {name!r}: this machine has {torch.cuda.device_count()} GPU(s)")
    return torch.device(name)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype that `name` means on `device`; "auto": the best half precision of a GPU.

    float32 on a CPU (exact, and half precision is slower there), bfloat16 on GPUs from Ampere on,
    float16 on older ones.

    Raises:
        UserError: an unknown name, or float32 where products would be rounded to fewer bits.
    """
    if name not in ("auto", *DTYPES):
        raise unknown_name("dtype", name, ["auto", *DTYPES])
    dtype = _automatic_dtype(device)[0] if name == "auto" else DTYPES[name]
    precision = torch.get_float32_matmul_precision()
    if dtype == torch.float32 and precision != "highest":
        raise UserError(
            f"float32 would be multiplied with fewer bits here (float32_matmul_precision "
            f"{precision!r}), which gives other tokens; set TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=0, "
            "which some containers set to 1, or choose dtype bfloat16"
        )
    return dtype


def dtype_reason(name: str, device: torch.device) -> str | None:
    """Explain what "auto" chose on `device`; None for a dtype that was named."""
    return _automatic_dtype(device)[1] if name == "auto" else None


def _automatic_dtype(device: torch.device) -> tuple[torch.dtype, str]:
    if device.type == "cpu":
        return torch.float32, "float32: exact, and half precision is slower on a CPU"
    major, minor = torch.cuda.get_device_capability(device)
    capability = f"compute capability {major}.{minor}"
    if (major, minor) >= BFLOAT16_CAPABILITY:
        return torch.bfloat16, f"bfloat16: {capability} has it"
    return torch.float16, f"float16: {capability} has no bfloat16"


def _check_last_layer(folder: Path, config: ModelConfig) -> None:
    """Refuse weights without the last layer, before the layers of a wrong number are built."""
    name = f"model.layers.{config.num_layers - 1}.input_layernorm.weight"
    for file in weight_files(folder):
        with _opened(file) as stored:
            if name in stored.keys():  # noqa: SIM118
                return
    raise UserError(f"{folder}: tensor {name} is missing from the checkpoint")


def has_other_head(folder: Path, config: ModelConfig) -> bool:
    """Whether a checkpoint whose config ties the head has one that is not the embedding."""
    if not config.tie_word_embeddings:
        return False
    found: dict[str, Tensor] = {}
    for file in weight_files(folder):
        with _opened(file) as stored:
            found |= {name: stored.get_tensor(name) for name in VOCABULARY if name in stored.keys()}  # noqa: SIM118
    head, embedding = (found.get(name) for name in VOCABULARY)
    return head is not None and embedding is not None and not torch.equal(head, embedding)


def _rows_with_holes(name: str, weight: Tensor) -> int:
    """Count the rows that are zero, whole or in a long part; of a vector, all is one row.

    Left out are whole rows that stand alone, as those of neurons that died in training, or that are
    of embedding or head, as those of tokens that nobody uses; and whole biases: some models have
    none.
    """
    rows = weight.view(-1, weight.shape[-1])
    parts = rows.tensor_split(-(-rows.shape[1] // ZEROS_IN_A_ROW), dim=1)
    # The maximum is many times faster than asking for zeros, which few rows need then.
    peaks = torch.stack([part.amax(dim=1) for part in parts], dim=1)  # [rows, parts]
    suspects = (peaks == 0).any(dim=1).nonzero().flatten()
    zero = torch.stack([~part[suspects].any(dim=1) for part in parts], dim=1)
    is_whole = zero.all(dim=1)
    whole = suspects[is_whole]
    apart = whole[ROWS_OF_A_HOLE - 1 :] - whole[: 1 - ROWS_OF_A_HOLE]
    has_run = name not in VOCABULARY and bool((apart < ROWS_OF_A_HOLE).any())
    if not name.endswith(".bias") and (has_run or len(whole) == len(rows)):
        return int(zero.any(dim=1).sum())
    return int((zero.any(dim=1) & ~is_whole).sum())


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as stored:
            yield stored
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: not a whole safetensors file ({error}); fetch it again") from None


def _stored_tensors(
    folder: Path, expected: dict[str, tuple[int, ...]]
) -> Iterator[tuple[Path, str, Tensor]]:
    placed = weight_map(folder)
    for file in weight_files(folder):
        with _opened(file) as stored:
            for name in stored.keys():  # noqa: SIM118 (a safetensors handle is no mapping)
                # A tied head repeats the embedding, and inverse frequencies are computed.
                if name == "lm_head.weight" and name not in expected:
                    continue
                if name.endswith("rotary_emb.inv_freq"):
                    continue
                if name not in expected:
                    raise UserError(
                        f"{file}: unexpected tensor {name}; config.json describes another model"
                    )
                if placed is not None and placed.get(name) != file.name:
                    raise UserError(
                        f"{folder / WEIGHT_INDEX}: places {name} in {placed.get(name, 'no file')}, "
                        f"but it is in {file.name}; fetch the checkpoint again"
                    )
                tensor = stored.get_tensor(name)
                if tensor.dtype not in (*DTYPES.values(), torch.float64):
                    raise UserError(
                        f"{file}: tensor {name} holds {tensor.dtype}; quantized weights are not "
                        "supported; give the model in bfloat16, float16 or float32"
                    )
                yield file, name, tensor
