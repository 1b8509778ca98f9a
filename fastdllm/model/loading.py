"""From a checkpoint to a model on a device, in a dtype: safetensors only.

Remote code is never run and pickled weights are never opened. What is wrong with a checkpoint is
reported in one line that names the file or the tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from fastdllm.common.console import notice
from fastdllm.common.errors import UserError, unknown_name
from fastdllm.machine.device import free_bytes
from fastdllm.model.checkpoint import find_checkpoint, other_weights
from fastdllm.model.config import ModelConfig, read_config
from fastdllm.model.fused import FusedModel, fused_bytes
from fastdllm.model.plain import BlockDiffusionModel
from fastdllm.model.weight_files import FileWeights, WeightFiles

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Of the files beside the model's, so many are named in a line.
MOST_NAMED = 4
OTHER_HEAD = "has an lm_head.weight of its own, which is used; config.json ties it"

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
    reserve: int = 0,
) -> FusedModel:
    """Load a Fast-dLLM v2 checkpoint, ready to decode: weights fused and in their fastest layout.

    Args:
        path: a folder with config.json and safetensors, or a Hugging Face hub id.
        device: "auto" (a GPU when there is one), "cpu", "cuda" or "cuda:N".
        dtype: "auto" (see `resolve_dtype`), "float32", "bfloat16" or "float16".
        revision: branch, tag or commit of a hub id.
        reserve: bytes that decoding one sequence needs beside the weights.

    Raises:
        UserError: the folder, a key, a tensor or a name is wrong, or the model does not fit the
            memory; the message says which.
    """
    opened = _open_weights(path, device=device, dtype=dtype, revision=revision, reserve=reserve)
    with opened as (weights, _):
        return FusedModel(weights)


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
    with _open_weights(path, device=device, dtype=dtype, revision=revision) as (weights, model):
        for name, empty in model.state_dict().items():
            weight = torch.empty(empty.shape, device=weights.device, dtype=weights.dtype)
            weights.write(name, weight)
            model.load_state_dict({name: weight}, strict=False, assign=True)
    return model.eval().requires_grad_(False)


@contextmanager
def _open_weights(
    path: str | Path, *, device: str, dtype: str, revision: str | None, reserve: int = 0
) -> Iterator[tuple[FileWeights, BlockDiffusionModel]]:
    """Open and check a checkpoint; also give its plain module, without memory for weights."""
    target = resolve_device(device)
    kind = resolve_dtype(dtype, target)
    folder = find_checkpoint(path, revision)
    config = read_config(folder)
    if dtype == "auto" and kind == torch.float16:
        notice(f"dtype {dtype_reason(dtype, target)}")
    if left := other_weights(folder):
        more = f" and {len(left) - MOST_NAMED} more" if len(left) > MOST_NAMED else ""
        names = ", ".join(left[:MOST_NAMED])
        notice(f"{folder}: not read, as they are no part of the model: {names}{more}")
    with WeightFiles(folder) as files:
        last = f"model.layers.{config.num_layers - 1}.input_layernorm.weight"
        if last not in files.stored:  # before the layers of a wrong number are built
            raise UserError(f"{folder}: tensor {last} is missing from the checkpoint")
        if config.tie_word_embeddings and files.has_other_head():
            notice(f"{folder}: {OTHER_HEAD}")
            config = replace(config, tie_word_embeddings=False)
        _check_memory(folder, config, target, kind, reserve)
        with torch.device("meta"):
            model = BlockDiffusionModel(config)
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        yield FileWeights(files, config, expected, device=target, dtype=kind), model


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
    return torch.float16, (
        f"float16: {capability} has no bfloat16; numbers beyond its range are noticed and end the "
        "run, and dtype float32 has the range, in twice the memory"
    )


def _check_memory(
    folder: Path, config: ModelConfig, device: torch.device, dtype: torch.dtype, reserve: int
) -> None:
    """Refuse a model that does not fit the memory of its device, before its weights are read."""
    weights, free = fused_bytes(config, device, dtype), free_bytes(device)
    if weights + reserve <= free:
        return
    advice = []
    half = torch.bfloat16 if device.type == "cpu" else _automatic_dtype(device)[0]
    smaller = fused_bytes(config, device, half)
    if dtype == torch.float32 and smaller + reserve <= free:
        advice.append(f"dtype {_name(half)} ({_gib(smaller)} for weights)")
    if reserve and weights < free:
        advice.append("shorter prompts or answers")
    advice.append("a GPU with more memory" if device.type == "cuda" else "more memory for this job")
    parts = f" ({_gib(weights)} for weights, {_gib(reserve)} for one sequence)" if reserve else ""
    raise UserError(
        f"{folder}: {_name(dtype)} needs {_gib(weights + reserve)}{parts}, but {device} has "
        f"{_gib(free)} free; try {' or '.join(advice)}"
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def has_other_head(folder: Path, config: ModelConfig) -> bool:
    """Whether a checkpoint whose config ties the head has one that is not the embedding."""
    if not config.tie_word_embeddings:
        return False
    with WeightFiles(folder) as files:
        return files.has_other_head()
