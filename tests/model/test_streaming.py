"""Weights are read one after the other: little memory beside the model, and no file in use."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

from fastdllm import DecodingSettings, UserError, generate, load_model
from fastdllm.model.checkpoint import LONGEST_HEADER
from fastdllm.model.config import read_config
from fastdllm.model.loading import load_plain_model
from fastdllm.model.plain import BlockDiffusionModel
from fastdllm.model.weight_files import WeightFiles
from tests.conftest import GOLDEN
from tests.model.test_loading import change_config

# Layers of 1.6 million numbers; each matrix of them is packed in float32.
SIZES = {
    "hidden_size": 256,
    "intermediate_size": 1792,
    "num_hidden_layers": 20,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 12_000,
    "tie_word_embeddings": False,
}
SHARDS = 3


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 75 MB in bfloat16, in three files."""
    folder = shutil.copytree(GOLDEN / "m6", tmp_path_factory.mktemp("large") / "model")
    (folder / "model.safetensors").unlink()
    change_config(folder, **SIZES)
    with torch.device("meta"):
        shapes = BlockDiffusionModel(read_config(folder)).state_dict()
    names = list(shapes)
    for part in range(SHARDS):
        chosen = names[part * len(names) // SHARDS : (part + 1) * len(names) // SHARDS]
        save_file(
            {name: torch.full(shapes[name].shape, 0.01, dtype=torch.bfloat16) for name in chosen},
            folder / f"model-{part + 1:05}-of-{SHARDS:05}.safetensors",
        )
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("load", [load_model, load_plain_model])
def test_loading_holds_little_more_than_the_model(large, load, dtype):
    """All tensors at once: at most 1.1 times the model, with what is packed and checked."""
    shards = [file.stat().st_size for file in large.glob("*.safetensors")]
    final = sum(shards) * (2 if dtype == "float32" else 1)
    gc.collect()  # what earlier tests left is not to be freed meanwhile
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        model = load(large, device="cpu", dtype=dtype)
    events = _walk(recorded.profiler.kineto_results.experimental_event_tree())
    allocations = [
        (event.start_time_ns, event.extra_fields)
        for event in events
        if event.tag == _EventType.Allocation
    ]
    _, first = min(allocations, key=lambda pair: pair[0])
    before = first.total_allocated - first.alloc_size
    peak = max(fields.total_allocated for _, fields in allocations) - before
    assert model.config.num_layers == SIZES["num_hidden_layers"]
    assert final <= peak < 1.1 * final


def _walk(events):
    for event in events:
        yield event
        yield from _walk(event.children)


def tokens(model):
    settings = DecodingSettings(max_new_tokens=20, threshold=0.5)
    return generate(model, [[5, 6, 7]], settings)[0].token_ids


@pytest.mark.parametrize("spoil", [Path.unlink, lambda file: os.truncate(file, 0)])
def test_a_model_goes_on_after_its_files_are_gone(tmp_path, spoil):
    """A purge of scratch storage removes files that no job has read for a while."""
    folder = shutil.copytree(GOLDEN / "m14", tmp_path / "model")
    change_config(folder, mask_token_id=255)
    expected = tokens(load_model(folder, device="cpu"))
    model, plain = load_model(folder, device="cpu"), load_plain_model(folder, device="cpu")
    for file in folder.iterdir():
        spoil(file)
    assert tokens(model) == tokens(plain) == expected


def test_a_file_that_is_cut_off_while_it_is_read_is_one_line(tmp_path):
    folder = shutil.copytree(GOLDEN / "m14", tmp_path / "model")
    with WeightFiles(folder) as files:
        os.truncate(folder / "model.safetensors", 4096)
        with pytest.raises(UserError, match=r"model\.safetensors: ends while it is read; fetch"):
            list(files.parts("model.norm.weight"))


def test_a_file_that_may_not_be_read_is_one_line(tmp_path, monkeypatch):
    folder = shutil.copytree(GOLDEN / "m6", tmp_path / "model")
    opened = Path.open

    def refused(path, *arguments, **options):
        if path.suffix == ".safetensors":  # as the mode of a file refuses all but root
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(UserError, match=r"model\.safetensors: cannot be read \(Permission denied"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 50_000,
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}',
        b'{"a": 1}',
    ],
)
def test_a_header_that_does_not_describe_its_file_is_one_line(tmp_path, header):
    folder = shutil.copytree(GOLDEN / "m6", tmp_path / "model")
    file = folder / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(
        UserError, match=r"model\.safetensors: not a whole safetensors file"
    ) as caught:
        load_model(folder, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_header_of_impossible_length_is_not_read(tmp_path):
    folder = shutil.copytree(GOLDEN / "m6", tmp_path / "model")
    with (folder / "model.safetensors").open("r+b") as stream:
        stream.write((2 * LONGEST_HEADER).to_bytes(8, "little"))
        stream.truncate(4 * LONGEST_HEADER)  # a hole, which takes no place on the disk
    with pytest.raises(UserError, match="the header is not whole"):
        load_model(folder, device="cpu")


def test_a_layer_may_lie_in_several_files(tmp_path, golden_model):
    folder = shutil.copytree(GOLDEN / "m6", tmp_path / "model")
    (folder / "model.safetensors").unlink()
    stored = golden_model("m6").state_dict()
    for part in range(SHARDS):  # as no tool writes them: each third tensor
        chosen = {name: stored[name].clone() for name in list(stored)[part::SHARDS]}
        save_file(chosen, folder / f"model-{part + 1:05}-of-{SHARDS:05}.safetensors")
    loaded = load_plain_model(folder, device="cpu", dtype="float32").state_dict()
    assert all(torch.equal(loaded[name], stored[name]) for name in stored)
