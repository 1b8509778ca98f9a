"""Checkpoints laid out as the published ones of 7B and 1.5B, in small: loaded, and damaged."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from fastdllm import DecodingSettings, UserError, generate, load_model
from fastdllm.model.checkpoint import weight_files
from fastdllm.model.config import read_config
from fastdllm.model.loading import load_plain_model
from fastdllm.model.tokenizer import load_tokenizer, prompt_ids
from fastdllm.tools.bench.random_models import SHAPES, RandomWeights
from scripts.random_checkpoint import FILES, main, narrow, write_checkpoint
from tests.support.real_size_tokenizer import (
    ENDOFTEXT,
    IM_END,
    MASK,
    save_real_size_tokenizer,
)

HUB_IDS = {
    "7b": "Efficient-Large-Model/Fast_dLLM_v2_7B",
    "1.5b": "Efficient-Large-Model/Fast_dLLM_v2_1.5B",
}
# Multiples of twice the number of heads.
HIDDEN = {"7b": 112, "1.5b": 48}
LAYERS = 3
REMOTE_CODE = "raise SystemExit('code of a checkpoint was run')\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder per layout, with a tokenizer of real size, and code that ends whoever runs it."""
    folders = {}
    for name, files in FILES.items():
        folders[name] = tmp_path_factory.mktemp("published") / name
        config = narrow(SHAPES[name], HIDDEN[name], LAYERS)
        write_checkpoint(folders[name], config, files=files)
        save_real_size_tokenizer(folders[name])
        for file in ("configuration.py", "modeling.py"):
            (folders[name] / file).write_text(REMOTE_CODE)
    return folders


@pytest.fixture(params=FILES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(made: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the layout of 7B."""
    return shutil.copytree(made["7b"], tmp_path / "7b")


def test_files_are_those_of_the_published_layout(made) -> None:
    assert [file.name for file in weight_files(made["1.5b"])] == ["model.safetensors"]
    files = weight_files(made["7b"])
    assert [file.name for file in files] == [
        f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)
    ]
    with safe_open(files[0], "pt") as first, safe_open(files[2], "pt") as last:
        assert "model.embed_tokens.weight" in first.keys()  # noqa: SIM118 (no mapping)
        assert "lm_head.weight" in last.keys()  # noqa: SIM118 (no mapping)


def test_config_json_decides_all(made, name) -> None:
    config = read_config(made[name])
    published = narrow(SHAPES[name], HIDDEN[name], LAYERS)
    assert (config.vocab_size, config.tie_word_embeddings) == {
        "7b": (152_064, False),
        "1.5b": (151_936, True),
    }[name]
    shape = (config.num_layers, config.hidden_size, config.intermediate_size, config.num_heads)
    assert shape == (LAYERS, HIDDEN[name], published.intermediate_size, published.num_heads)
    assert (config.num_kv_heads, config.head_dim) == (published.num_kv_heads, published.head_dim)
    assert (config.max_positions, config.rope_theta) == (32_768, 1e6)
    assert (config.block_size, config.mask_id) == (32, MASK)
    assert set(config.stop_tokens) == {IM_END, ENDOFTEXT}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_weight_is_that_of_the_files(made, name, dtype) -> None:
    model = load_plain_model(made[name], device="cpu", dtype=dtype)
    config = narrow(SHAPES[name], HIDDEN[name], LAYERS)
    source = RandomWeights(config, device=torch.device("cpu"), dtype=torch.bfloat16)
    weights = model.state_dict()
    assert weights.keys() == source.shapes.keys()
    for key, weight in weights.items():
        expected = torch.empty(source.shape(key), dtype=torch.bfloat16)
        source.write(key, expected)
        assert torch.equal(weight, expected.to(weight.dtype)), key


def test_a_question_is_asked_with_the_chat_template_and_answered(made, name) -> None:
    tokenizer = load_tokenizer(str(made[name]))
    prompt = prompt_ids(tokenizer, "What is 6 x 7?")
    assert tokenizer.decode(prompt).startswith("<|im_start|>system\nYou are a helpful assistant.")
    model = load_model(made[name], device="cpu", dtype="bfloat16")
    answer = generate(model, [prompt], DecodingSettings(max_new_tokens=8))[0]
    assert 0 < len(answer.token_ids) <= 8
    assert MASK not in answer.token_ids


def test_a_hub_id_is_found_in_the_cache_as_the_hub_keeps_it(
    made, name, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snapshots are links to blobs, which are named by their digest."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    storage = tmp_path / ("models--" + HUB_IDS[name].replace("/", "--"))
    snapshot = storage / "snapshots" / ("a" * 40)
    for place in (storage / "blobs", storage / "refs", snapshot):
        place.mkdir(parents=True)
    (storage / "refs" / "main").write_text(snapshot.name)
    for file in made[name].iterdir():
        blob = storage / "blobs" / hashlib.sha256(file.name.encode()).hexdigest()
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    by_id, by_folder = (
        load_plain_model(model, device="cpu", dtype="bfloat16").state_dict()
        for model in (HUB_IDS[name], made[name])
    )
    assert all(torch.equal(by_id[key], by_folder[key]) for key in by_folder)
    assert load_tokenizer(HUB_IDS[name]).convert_tokens_to_ids("|<MASK>|") == MASK


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_model(folder, device="cpu", dtype="bfloat16")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_shard_that_is_missing_or_cut_off_is_named(folder: Path, number: int) -> None:
    shard = folder / f"model-0000{number}-of-00003.safetensors"
    os.truncate(shard, shard.stat().st_size - 1)
    assert f"{shard}: not a whole safetensors file" in refused(folder)
    shard.unlink()
    assert refused(folder) == f"{shard}: not found, but the checkpoint needs it; fetch it again"


def test_shards_of_two_downloads_are_not_mixed(folder: Path) -> None:
    """The tensors of another revision may be placed otherwise."""
    index = folder / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    values["weight_map"]["model.norm.weight"] = "model-00001-of-00003.safetensors"
    index.write_text(json.dumps(values))
    assert "places model.norm.weight in model-00001-of-00003.safetensors, but" in refused(folder)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "Fast_dLLM_Llama"}, "model_type: 'Fast_dLLM_Llama' is not supported"),
        (
            {"architectures": ["Fast_dLLM_V3ForCausalLM"]},
            "is not supported; it should be Fast_dLLM",
        ),
        ({"tie_word_embeddings": True, "vocab_size": 151_936}, "has shape [152064, 112], but"),
        ({"num_hidden_layers": 4}, "tensor model.layers.3.input_layernorm.weight is missing"),
        ({"num_hidden_layers": 2}, "unexpected tensor model.layers.2."),
        ({"num_key_value_heads": 28}, "k_proj.bias has shape [16], but config.json says [112]"),
    ],
)
def test_a_config_that_is_not_that_of_the_weights_is_refused(
    folder: Path, changes: dict, says: str
) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    assert says in refused(folder)


def test_the_script_writes_a_model_with_the_tokenizer_of_another(
    made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["", "1.5b", str(tmp_path / "new"), "--hidden-size", "48"])
    monkeypatch.setattr("sys.argv", [*sys.argv, "--layers", "2", "--tokenizer", str(made["7b"])])
    main()
    assert load_plain_model(tmp_path / "new", device="cpu").config.num_layers == 2
    assert load_tokenizer(str(tmp_path / "new")).mask_token_id == MASK
    monkeypatch.setattr("sys.argv", ["", "7b", str(tmp_path / "other"), "--hidden-size", "100"])
    with pytest.raises(SystemExit):
        main()
    monkeypatch.setattr("sys.argv", ["", "7b", str(tmp_path / "bare"), "--tokenizer", "nowhere"])
    with pytest.raises(SystemExit):
        main()
    assert not (tmp_path / "bare").exists()
