"""The memory that a model needs is compared with the device's before its weights are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fastdllm import DecodingSettings, UserError, load_model
from fastdllm.decoding import memory
from fastdllm.decoding.loop import default_policy
from fastdllm.machine import device
from fastdllm.model import loading
from fastdllm.model.config import read_config
from fastdllm.model.fused import FusedModel, fused_bytes
from fastdllm.model.plain import BlockDiffusionModel
from fastdllm.runs.loaded_model import KeptModel, load_engine, load_plan_tokenizer
from fastdllm.runs.spec import RunSpec, read_spec
from fastdllm.tasks.plan import Plan
from tests.cluster.test_fitting import model as seven_b
from tests.conftest import GOLDEN
from tests.runs.test_evaluate import finish
from tests.support.run_project import *  # noqa: F403

GIB = 2**30
UNKNOWN = 2**62
CPU = torch.device("cpu")


def with_headers(folder: Path) -> Path:
    """Write a file with the headers of all weights; the weights are a hole of 15 GB."""
    with torch.device("meta"):
        shapes = BlockDiffusionModel(read_config(folder)).state_dict()
    header: dict[str, Any] = {}
    at = 0
    for name, weight in shapes.items():
        stop = at + 2 * weight.numel()
        header[name] = {"dtype": "BF16", "shape": list(weight.shape), "data_offsets": [at, stop]}
        at = stop
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + at)
    return folder


def free(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(loading, "free_bytes", lambda _: count)


@pytest.mark.parametrize(
    ("dtype", "free_gib", "advice"),
    [
        ("float32", 20, "dtype bfloat16 (14.2 GiB for weights) or more memory for this job"),
        ("float32", 10, "more memory for this job"),
        ("bfloat16", 10, "more memory for this job"),
        ("bfloat16", 15, "shorter prompts or answers or more memory for this job"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_before_a_weight_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, free_gib: int, advice: str
) -> None:
    folder = with_headers(Path(seven_b(tmp_path)))
    free(monkeypatch, free_gib * GIB)
    with pytest.raises(UserError) as caught:
        load_model(folder, device="cpu", dtype=dtype, reserve=2 * GIB)
    weights = {"float32": 28.4, "bfloat16": 14.2}[dtype]
    assert str(caught.value) == (
        f"{folder}: {dtype} needs {weights + 2:.1f} GiB ({weights} GiB for weights, 2.0 GiB for "
        f"one sequence), but cpu has {free_gib}.0 GiB free; try {advice}"
    )


@pytest.mark.parametrize("name", ["m6", "m14"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_memory_of_weights_is_that_of_the_tensors(
    monkeypatch: pytest.MonkeyPatch, name: str, dtype: torch.dtype
) -> None:
    """What fits is not refused: not a byte more is asked for than there will be."""
    needed = fused_bytes(read_config(GOLDEN / name), CPU, dtype)
    text = str(dtype).removeprefix("torch.")
    free(monkeypatch, needed)
    model = load_model(GOLDEN / name, device="cpu", dtype=text)
    assert needed >= sum(
        weight.nbytes
        for layer in model.layers
        for product in (layer.qkv, layer.output, layer.gated.both, layer.down)
        for weight in [getattr(product, "transposed", getattr(product, "packed", None))]
    )
    free(monkeypatch, needed - 1)
    with pytest.raises(UserError, match=f"{text} needs"):
        load_model(GOLDEN / name, device="cpu", dtype=text)


def test_what_decoding_asks_for_before_loading_is_what_it_takes_later(
    golden_model, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = FusedModel(golden_model("m28"))
    settings = DecodingSettings(mask_id=255)
    policy = default_policy(settings, 28)
    needed = memory.decoding_bytes(model.config, CPU, model.dtype, 704, policy)
    monkeypatch.setattr(memory, "free_bytes", lambda _: needed)
    assert memory.choose_slots(model, [704] * 5, policy=policy, requested=5) == 1
    monkeypatch.setattr(memory, "free_bytes", lambda _: needed - 2)
    with pytest.raises(UserError, match="a sequence of 704 positions needs"):
        memory.choose_slots(model, [704] * 5, policy=policy, requested=5)


def test_a_run_whose_longest_sequence_does_not_fit_is_refused_before_weights_are_read(
    make_spec, make_plan_on_disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, spec = make_plan_on_disk(), read_spec(make_spec(batch_size=3))
    weights = fused_bytes(read_config(Path(spec.run.model_path)), CPU, torch.float32)
    one = decoding_bytes_of(spec, plan)
    free(monkeypatch, weights + one)
    loaded(spec, plan)
    free(monkeypatch, weights + one - 1)
    monkeypatch.setattr(loading, "FileWeights", None)
    with pytest.raises(UserError, match="shorter prompts or answers or more memory"):
        loaded(spec, plan)


@pytest.mark.parametrize(("free_for", "batch_size"), [(2, 2), (3, 3), (None, 3)])
def test_of_a_batch_that_does_not_fit_as_many_are_decoded_as_do(
    make_spec, make_plan_on_disk, monkeypatch: pytest.MonkeyPatch, capsys, free_for, batch_size
) -> None:
    """None: how much memory is free is not known, so nothing is said of it."""
    plan, path = make_plan_on_disk(), make_spec(batch_size=5)
    spec = read_spec(path)
    room = UNKNOWN
    if free_for is not None:
        slot = decoding_bytes_of(spec, plan, rows=False)
        room = decoding_bytes_of(spec, plan) + (free_for - 1) * slot
    monkeypatch.setattr(memory, "free_bytes", lambda _: room)
    assert finish(path).summary.eval_params["batch_size"] == batch_size
    said = (
        "fastdllm: batch_size: about 2 of 3 sequences at once will fit the memory of cpu; the "
        "others wait for a slot\n"
    )
    assert (said in capsys.readouterr().err) is (batch_size == 2)


def decoding_bytes_of(spec: RunSpec, plan: Plan, *, rows: bool = True) -> int:
    """Free bytes for the longest sequence of a plan; rows: and for the rows of prompts."""
    config = read_config(Path(spec.run.model_path))
    policy = default_policy(spec.settings, config.num_layers)
    length = max(len(request.prompt_ids) for request in plan.requests) + 24
    length = -(-length // spec.settings.block_size) * spec.settings.block_size
    if rows:
        return memory.decoding_bytes(config, CPU, torch.float32, length, policy)
    return 2 * memory.slot_bytes(config, torch.float32, length, policy)


def loaded(spec: RunSpec, plan: Plan) -> None:
    tokenizer = load_plan_tokenizer(spec, plan)
    load_engine(spec, plan, tokenizer, device="cpu", models=KeptModel())


def test_memory_is_unknown_where_the_system_does_not_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "memory_left", lambda: None)
    monkeypatch.setattr(device, "Path", lambda _: tmp_path / "meminfo")
    assert device.free_bytes(CPU) == UNKNOWN
