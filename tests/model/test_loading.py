"""Checkpoints: what is wrong is told in one line that names the file, key or tensor."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from fastdllm import UserError, load_model
from fastdllm.model import loading
from fastdllm.model.checkpoint import find_checkpoint
from fastdllm.model.loading import dtype_reason, load_plain_model, resolve_dtype
from tests.conftest import GOLDEN

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(GOLDEN / "m6", tmp_path / "m6")
    return tmp_path / "m6"


def change_config(folder, **changes):
    file = folder / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in config.items() if v != "remove"}))


def change_tensors(folder, change):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def refused(folder, **options):
    with pytest.raises(UserError) as error:
        load_model(folder, **({"device": "cpu"} | options))
    line = str(error.value)
    assert "\n" not in line
    return line


def test_config_keys_are_read_and_checked(folder):
    change_config(folder, num_attention_heads="remove")
    assert "config.json: key 'num_attention_heads' is missing" in refused(folder)
    change_config(folder, num_attention_heads=-4)
    assert "num_attention_heads: -4 is not allowed" in refused(folder)
    change_config(folder, num_attention_heads=4, hidden_act="gelu")
    assert "hidden_act: 'gelu' is not supported" in refused(folder)
    change_config(folder, hidden_act="silu", use_sliding_window=True)
    assert "use_sliding_window" in refused(folder)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"rope_theta": "x"}, "rope_theta: 'x' is not allowed"),
        ({"rms_norm_eps": -1}, "rms_norm_eps: -1 is not allowed"),
        ({"eos_token_id": "<stop>"}, "eos_token_id: '<stop>' is not allowed"),
        ({"num_key_value_heads": 3}, "4 heads are not a multiple of 3 kv heads"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters: {'rope_type': 'yarn'}"),
        ({"layer_types": ["sliding_attention"]}, "layer_types: ['sliding_attention']"),
    ],
)
def test_values_that_would_decode_wrongly_are_refused(folder, keys, says):
    change_config(folder, **keys)
    assert says in refused(folder)


def test_special_tokens_may_be_absent(folder):
    change_config(folder, eos_token_id=[])
    assert load_model(folder, device="cpu").config.stop_tokens == ()
    (folder / "tokenizer.json").write_text("[1]")
    assert "tokenizer.json: expected a JSON object" in refused(folder)


def test_shapes_are_checked_by_tensor_name(folder):
    change_config(folder, intermediate_size=100)
    line = refused(folder)
    assert "tensor model.layers.0.mlp." in line
    assert "config.json says" in line


def test_missing_and_unexpected_tensors_are_named(folder):
    change_tensors(folder, lambda t: t.pop("model.layers.3.self_attn.q_proj.bias"))
    assert "model.layers.3.self_attn.q_proj.bias is missing" in refused(folder)
    change_tensors(folder, lambda t: t.update({"model.layers.9.mlp.extra": torch.zeros(1)}))
    assert "unexpected tensor model.layers.9.mlp.extra" in refused(folder)


def test_a_truncated_file_and_a_folder_without_weights(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    assert "not a whole safetensors file" in refused(folder)
    file.write_bytes(b"")
    assert "not a whole safetensors file" in refused(folder)
    file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    assert "no safetensors weights here" in refused(folder)


def test_broken_or_missing_config(folder):
    (folder / "config.json").write_text("{")
    assert "config.json: not valid JSON" in refused(folder)
    (folder / "config.json").unlink()
    assert "a checkpoint folder needs config.json" in refused(folder)


def test_names_of_models_dtypes_and_devices(folder):
    assert "no such folder" in refused("models/absent/deep")
    assert "no such folder" in refused("./absent")
    assert "unknown dtype 'float23'; did you mean 'float32'?" in refused(folder, dtype="float23")
    assert "unknown device 'cdua'; did you mean 'cuda'?" in refused(folder, device="cdua")
    if not torch.cuda.is_available():
        assert "no CUDA GPU is visible here" in refused(folder, device="cuda")


def test_an_unreachable_hub_id_is_one_line(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "hf download nobody/no-such-model" in refused("nobody/no-such-model")


def test_sharded_and_single_checkpoints_load_alike(folder, golden_model):
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    placed = {}
    for part, chosen in enumerate((names[:20], names[20:])):
        file = f"model-0000{part + 1}-of-00002.safetensors"
        save_file({name: tensors[name] for name in chosen}, folder / file)
        placed |= dict.fromkeys(chosen, file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    ours, whole = (
        load_plain_model(folder, device="cpu").state_dict(),
        golden_model("m6").state_dict(),
    )
    assert all(torch.equal(ours[name], whole[name]) for name in whole)
    (folder / file).unlink()
    assert f"{file}: not found" in refused(folder)


def test_a_repeated_head_of_a_tied_checkpoint_is_left_out(tmp_path, golden_model):
    shutil.copytree(GOLDEN / "m14", tmp_path / "m14")
    change_tensors(
        tmp_path / "m14",
        lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}),
    )
    model = load_plain_model(tmp_path / "m14", device="cpu")
    assert set(model.state_dict()) == set(golden_model("m14").state_dict())


def test_the_mask_token_is_found_in_the_tokenizer_or_by_its_published_id(folder):
    assert load_model(folder, device="cpu").config.mask_id is None
    added = {"added_tokens": [{"id": 251, "content": "|<MASK>|"}]}
    (folder / "tokenizer.json").write_text(json.dumps(added))
    assert load_model(folder, device="cpu").config.mask_id == 251
    (folder / "tokenizer.json").unlink()
    change_config(folder, mask_token_id=7)
    assert load_model(folder, device="cpu").config.mask_id == 7


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_dtypes_by_name(name):
    model = load_plain_model(GOLDEN / "m6", device="cpu", dtype=name)
    assert {str(p.dtype) for p in model.parameters()} == {f"torch.{name}"}


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 0), "float16"), ((7, 5), "float16"), ((8, 0), "bfloat16")]
)
def test_auto_takes_the_half_precision_that_a_gpu_has_and_says_why(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    gpu = torch.device("cuda", 0)
    assert str(resolve_dtype("auto", gpu)) == f"torch.{dtype}"
    reason = dtype_reason("auto", gpu)
    assert reason.startswith(f"{dtype}: compute capability {capability[0]}.{capability[1]} has")
    assert ("dtype float32 has the range" in reason) is (dtype == "float16")


@pytest.mark.parametrize(("capability", "said"), [((7, 5), 1), ((9, 0), 0)])
def test_float16_that_was_not_asked_for_is_said_with_float32_as_the_other_choice(
    monkeypatch, capsys, capability, said
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    # A tensor without memory, as there may be no GPU here.
    monkeypatch.setattr(loading, "resolve_device", lambda _: torch.device("meta"))
    for dtype in ("auto", "float16", "float32"):
        load_plain_model(GOLDEN / "m6", dtype=dtype)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == said
    assert all("capability 7.5 has no bfloat16" in line and "float32" in line for line in lines)


def test_a_named_dtype_needs_no_reason_and_a_cpu_is_exact():
    cpu = torch.device("cpu")
    assert dtype_reason("bfloat16", cpu) is None
    assert resolve_dtype("auto", cpu) == torch.float32
    assert dtype_reason("auto", cpu).startswith("float32: exact")


@pytest.mark.slow
def test_decoding_on_a_cpu_does_not_load_the_compiler_of_torch():
    """It would take each job, command and test a second."""
    code = (
        "import sys; from fastdllm import *; model = load_model(sys.argv[1], device='cpu'); "
        "generate(model, [[5, 6, 7]], DecodingSettings(max_new_tokens=4)); "
        "print('torch._dynamo' in sys.modules)"
    )
    command = [sys.executable, "-c", code, ROOT / "models/tiny"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr


@pytest.mark.slow
def test_planning_loads_no_torch():
    """It decodes nothing, and would take twice as long."""
    code = (
        "import sys; from fastdllm.tasks.planning import make_plan; "
        "from fastdllm.model.tokenizer import load_tokenizer; load_tokenizer(sys.argv[1]); "
        "print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, ROOT / "models/tiny"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr


def test_a_hub_that_is_not_reached_is_told_by_its_cause(monkeypatch):
    def fail(*_, **__):
        raise LocalEntryNotFoundError("Got: ConnectError: no route\nAn error happened while ...")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(UserError, match=r"deliver it \(ConnectError: no route\); fetch it on"):
        find_checkpoint("owner/name")
