"""Weights that are others than one thinks: which files are read, and what is said of the rest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from fastdllm.cli import main
from fastdllm.common.errors import UserError
from fastdllm.model.checkpoint import other_weights, weight_files
from fastdllm.model.config import read_config
from fastdllm.model.loading import load_plain_model
from fastdllm.model.plain import BlockDiffusionModel
from fastdllm.records.summary import read_summary
from fastdllm.runs.evaluation import Evaluation
from fastdllm.runs.loaded_model import KeptModel, load_engine
from fastdllm.runs.spec import read_spec
from fastdllm.workflow.project.digests import FileDigests, check_sources, digest_of, model_digest
from tests.support.run_project import silent

TINY = Path(__file__).parents[2] / "models" / "tiny"
WEIGHTS = "model.safetensors"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(TINY, tmp_path / "model")
    return tmp_path / "model"


def weights() -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in load_file(TINY / WEIGHTS).items()}


def zeros() -> dict[str, torch.Tensor]:
    return {key: value * 0 for key, value in weights().items()}


def is_the_model(folder: Path) -> bool:
    model = load_plain_model(folder, device="cpu", dtype="float32")
    return torch.equal(model.state_dict()[EMBEDDING], weights()[EMBEDDING])


@pytest.mark.parametrize(
    "name",
    [
        "model_backup.safetensors",
        "a_model.safetensors",
        "model_epoch1.safetensors",
        "adapter_model.safetensors",
        "optimizer.safetensors",
        "._model.safetensors",
        "pytorch_model.bin",
        "optimizer.pt",
        "model-00001-of-00001.safetensors",
    ],
)
def test_what_lies_beside_the_model_is_left_alone(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = model_digest(folder, FileDigests(path=folder / "digests"))
    save_file(zeros(), folder / name)
    assert is_the_model(folder)
    assert weight_files(folder) == [folder / WEIGHTS]
    assert other_weights(folder) == [name]
    said = f"fastdllm: {folder}: not read, as they are no part of the model: {name}"
    assert capsys.readouterr().err.splitlines() == [said]
    assert model_digest(folder, FileDigests(path=folder / "digests")) == before


@pytest.mark.parametrize(
    "name",
    [
        "additional_chat_templates/default.jinja",
        "tokenizer.4.0.0.json",  # of fast_tokenizer_files
        "config.4.0.0.json",  # of configuration_files
        "spiece.model",
        "qwen.tiktoken",
        "vocab.txt",
    ],
)
def test_every_file_that_a_tokenizer_may_be_read_from_counts(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    digests = []
    for text in ("a", "b"):
        (folder / name).write_text(text)
        digests.append(model_digest(folder, FileDigests(path=folder / "digests")))
    assert len({*digests, model_digest(TINY, FileDigests(path=folder / "digests"))}) == 3


@pytest.mark.parametrize("is_alone", [True, False])
def test_what_is_left_alone_stands_in_the_summary(
    make_spec: Any, make_plan_on_disk: Any, model_folder: Path, *, is_alone: bool
) -> None:
    names = [] if is_alone else ["adapter_model.safetensors", "optimizer.pt"]
    make_plan_on_disk()
    try:
        for name in names:
            (model_folder / name).write_bytes(b"no weights of the model")
        spec = make_spec()
        assert main(["eval", str(spec)]) == 0
    finally:
        for name in names:
            (model_folder / name).unlink()
    record = json.loads(spec.with_name("summary.json").read_text())
    assert record.get("weights_left_alone", []) == names


def test_model_safetensors_comes_before_an_index(folder: Path) -> None:
    save_file(zeros(), folder / "old-00001-of-00001.safetensors")
    places = dict.fromkeys(weights(), "old-00001-of-00001.safetensors")
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": places}))
    assert is_the_model(folder)


def test_shards_without_an_index_are_one_model(folder: Path) -> None:
    stored = weights()
    (folder / WEIGHTS).unlink()
    names = sorted(stored)
    for number, part in enumerate((names[:9], names[9:]), start=1):
        file = folder / f"model-0000{number}-of-00002.safetensors"
        save_file({name: stored[name] for name in part}, file)
    save_file(zeros(), folder / "backup.safetensors")
    assert is_the_model(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-00002-of-00002\.safetensors: not found"):
        load_plain_model(folder, device="cpu")


def test_of_several_files_none_is_guessed(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "first.safetensors")
    assert is_the_model(folder), "the only file is the model, whatever its name"
    save_file(zeros(), folder / "second.safetensors")
    with pytest.raises(UserError, match=r"which of first\.safetensors, second\.safetensors is"):
        load_plain_model(folder, device="cpu")


@pytest.mark.parametrize("name", ["adapter_model", "optimizer", "._model", "rng_state"])
def test_what_is_never_a_model_is_none_even_alone(folder: Path, name: str) -> None:
    (folder / WEIGHTS).rename(folder / f"{name}.safetensors")
    with pytest.raises(UserError, match="no safetensors weights here"):
        load_plain_model(folder, device="cpu")
    save_file(weights(), folder / "mine.safetensors")
    assert is_the_model(folder)


def test_a_tensor_in_two_files_names_both(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    save_file({EMBEDDING: zeros()[EMBEDDING]}, folder / "model-00002-of-00002.safetensors")
    with pytest.raises(UserError) as caught:
        load_plain_model(folder, device="cpu")
    assert "model-00002-of-00002.safetensors: tensor model.embed_tokens.weight" in str(caught.value)
    assert "is also in model-00001-of-00002.safetensors" in str(caught.value)


@pytest.mark.parametrize("is_equal", [True, False])
def test_another_head_of_a_tied_model_is_used_and_said(
    folder: Path, capsys: pytest.CaptureFixture[str], *, is_equal: bool
) -> None:
    stored = weights()
    stored[HEAD] = stored[EMBEDDING].clone() if is_equal else stored[EMBEDDING].flip(0).clone()
    save_file(stored, folder / WEIGHTS)
    model = load_plain_model(folder, device="cpu", dtype="float32")
    hidden = torch.randn(2, model.config.hidden_size)
    expected = torch.nn.functional.linear(model.model.norm(hidden), stored[HEAD])
    assert torch.equal(model.head(hidden), expected)
    assert ("has an lm_head.weight of its own" in capsys.readouterr().err) is not is_equal


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "llama"}, "model_type: 'llama' is not supported"),
        ({"model_type": "qwen3"}, "model_type: 'qwen3' is not supported"),
        ({"architectures": ["LlamaForCausalLM"]}, "architectures: 'LlamaForCausalLM' is not"),
        ({"model_type": None, "architectures": None}, "names no model_type"),
    ],
)
def test_a_model_of_another_kind_is_refused(folder: Path, changes: dict, says: str) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=says):
        read_config(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_parameters": {"type": "yarn", "factor": 4.0, "rope_theta": 1e6}},
        {"rope_parameters": {"rope_type": "default", "factor": 4.0}},
        {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0}}},
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        {"layer_types": ["sliding_attention"] * 14},
        {"use_sliding_window": "true"},
        {"attention_bias": 0},
        {"hidden_act": "gelu"},
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    ],
)
def test_layers_that_compute_something_else_are_refused(folder: Path, changes: dict) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=rf"{next(iter(changes))}: .* is not supported"):
        read_config(folder)


@pytest.mark.parametrize(
    ("rope", "theta"),
    [({"rope_theta": 5e5, "rope_type": "default"}, 5e5), ({"rope_theta": None}, 1e4), ({}, 1e4)],
)
def test_the_base_of_positions_is_that_of_rope_parameters_if_there(
    folder: Path, rope: dict, theta: float
) -> None:
    config = json.loads((folder / "config.json").read_text()) | {"rope_parameters": rope}
    for beside in (None, theta):
        (folder / "config.json").write_text(json.dumps(config | {"rope_theta": beside}))
        assert read_config(folder).rope_theta == theta


def test_two_bases_of_positions_that_differ_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] = {"rope_theta": 500, "rope_type": "default"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"rope_theta is 10000\.0, but 500 in rope_parameters"):
        read_config(folder)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda weight: weight.to(torch.float8_e4m3fn), "quantized weights are not supported"),
        (lambda weight: weight * 0, "down_proj.weight holds only zeros"),
    ],
    ids=["float8", "zeros"],
)
def test_weights_that_are_not_the_numbers_of_the_model_are_refused(
    folder: Path, spoil: Callable[[torch.Tensor], torch.Tensor], says: str
) -> None:
    name = "model.layers.3.mlp.down_proj.weight"
    stored = weights()
    save_file(stored | {name: spoil(stored[name])}, folder / WEIGHTS)
    with pytest.raises(UserError, match=says):
        load_plain_model(folder, device="cpu")


def cut_hole(file: Path, name: str, *, begin: int = 0, size: int | None = None) -> None:
    """Write zeros over bytes of a tensor, as where a download left out a part; all by default."""
    content = bytearray(file.read_bytes())
    length = int.from_bytes(content[:8], "little")
    start, end = json.loads(content[8 : 8 + length])[name]["data_offsets"]
    size = end - start - begin if size is None else size
    assert 0 <= begin <= begin + size <= end - start
    first = 8 + length + start + begin
    content[first : first + size] = bytes(size)
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "begin", "size", "rows"),
    [
        ("model.layers.3.mlp.gate_proj.weight", 1000, 4096, 15),
        ("model.layers.0.self_attn.o_proj.weight", 256, 4 * 256, 4),
        ("model.layers.13.post_attention_layernorm.weight", 0, None, 1),
        (EMBEDDING, 0, None, 512),
    ],
)
def test_zeros_inside_a_tensor_are_refused(
    folder: Path, name: str, begin: int, size: int | None, rows: int
) -> None:
    cut_hole(folder / WEIGHTS, name, begin=begin, size=size)
    with pytest.raises(UserError, match=rf"{name} holds only zeros in {rows} row\(s\)"):
        load_plain_model(folder, device="cpu")


@pytest.mark.parametrize("page", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("name", "width", "head_dim"),
    [
        (EMBEDDING, 3584, 2),
        ("model.layers.0.mlp.up_proj.weight", 3584, 2),
        ("model.layers.0.self_attn.k_proj.bias", 2, 8200),
    ],
)
def test_a_hole_that_is_shorter_than_a_row_is_refused(
    folder: Path, name: str, width: int, head_dim: int, page: int
) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_size": width, "num_attention_heads": 1, "num_key_value_heads": 1}
    config |= {"head_dim": head_dim, "intermediate_size": 8, "num_hidden_layers": 1}
    (folder / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        model = BlockDiffusionModel(read_config(folder))
    stored = {
        key: torch.full(value.shape, -0.5, dtype=torch.bfloat16)
        for key, value in model.state_dict().items()
    }
    save_file(stored, folder / WEIGHTS)
    load_plain_model(folder, device="cpu")
    cut_hole(folder / WEIGHTS, name, begin=page * 4096 + 8, size=4096)
    with pytest.raises(UserError, match=f"{name} holds only zeros in [12] row"):
        load_plain_model(folder, device="cpu")


def test_zeros_that_models_have_are_no_holes(folder: Path) -> None:
    cut_hole(folder / WEIGHTS, EMBEDDING, begin=509 * 256)  # behind the tokenizer's last token
    cut_hole(folder / WEIGHTS, "model.layers.0.self_attn.q_proj.bias")
    for row in (1, 2, 3, 5):  # of neurons that died
        cut_hole(folder / WEIGHTS, "model.layers.0.mlp.up_proj.weight", begin=row * 256, size=256)
    load_plain_model(folder, device="cpu")


def test_a_token_of_a_prompt_without_an_embedding_is_refused(
    make_spec: Any, make_plan_on_disk: Any, tokenizer: Any, model_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "damaged")
    spec = read_spec(make_spec())
    spec = spec.model_copy(update={"run": spec.run.model_copy(update={"model_path": str(folder)})})
    plan = make_plan_on_disk()

    def load() -> None:
        load_engine(spec, plan, tokenizer, device="cpu", models=KeptModel())

    load()
    stored = load_file(folder / WEIGHTS)
    for text in ("~", "+"):
        stored[EMBEDDING][ord(text)] = 0
        save_file(stored, folder / WEIGHTS)
        if text == "+":
            with pytest.raises(UserError, match=r"embedding of '\+', token 43 of prompts"):
                load()
        else:
            load()


def test_a_mask_that_is_not_the_tokenizers_is_refused(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mask_token_id": 3}))
    with pytest.raises(
        UserError, match=r"mask_token_id is 3, but \|<MASK>\| of tokenizer\.json is"
    ):
        read_config(folder)


def test_a_process_that_keeps_its_model_loads_weights_that_were_replaced(folder: Path) -> None:
    models = KeptModel()

    def get(digest: str) -> torch.Tensor:
        where = {"revision": None, "dtype": "float32", "device": "cpu"}
        return models.get(str(folder), digest=digest, **where)[0].embedding

    before = get("before")
    assert get("before") is before
    stored = weights()
    save_file(stored | {EMBEDDING: stored[EMBEDDING].flip(0).contiguous()}, folder / WEIGHTS)
    assert torch.equal(get("after"), before.flip(0))


def test_float32_of_fewer_bits_is_refused(folder: Path) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")  # as TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1 does
    try:
        with pytest.raises(UserError, match="set TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=0"):
            load_plain_model(folder, device="cpu", dtype="auto")
        assert load_plain_model(folder, device="cpu", dtype="bfloat16").dtype == torch.bfloat16
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("device", ["cpu:", "cuda:", "cpu:x", "cuda:-1", "cuda:1.5", "gpu", ""])
def test_a_device_that_is_none_is_one_line(folder: Path, device: str) -> None:
    with pytest.raises(UserError, match=f"unknown device '{device}'"):
        load_plain_model(folder, device=device)


def test_a_folder_has_no_revision(folder: Path) -> None:
    with pytest.raises(UserError, match="a folder has no revisions; leave out 'v2'"):
        load_plain_model(folder, device="cpu", revision="v2")


def test_mask_and_block_size_are_never_guessed(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["bd_size"], config["mask_token_id"]
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 152_064}))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = []
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    read = read_config(folder)
    assert (read.block_size, read.mask_id) == (None, None)
    tokenizer["added_tokens"] = [{"id": 7, "content": "|<MASK>|"}]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert read_config(folder).mask_id == 7


def test_weights_of_a_branch_that_moved_are_not_mixed_with_those_before(
    project: Path,
    model_folder: Path,
    make_spec: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    storage = tmp_path / "hub" / "models--lab--tiny"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(storage.parent))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def move_to(commit: str) -> None:
        shutil.copytree(model_folder, storage / "snapshots" / commit)
        (storage / "refs").mkdir(exist_ok=True)
        (storage / "refs" / "main").write_text(commit)

    def plan() -> None:
        config = project / "workflow_config.yaml"
        config.write_text(config.read_text().replace(str(model_folder), "lab/tiny"))
        assert main(["plan", "--task", "sums"]) == 0

    def evaluate() -> Path:
        check = partial(check_sources, digests=FileDigests())
        Evaluation(read_spec(spec), spec.parent, silent(), check).evaluate(again=True)
        return spec.with_name("answers.jsonl")

    spec = make_spec()
    values = json.loads(spec.read_text())
    values["decides"] |= {"model": "lab/tiny", "model_digest": "main"}
    values["fingerprint"] = digest_of(values["decides"])
    values["run"]["model_path"] = "lab/tiny"
    spec.write_text(json.dumps(values))
    move_to("a" * 40)
    plan()
    before = json.loads(evaluate().read_text().splitlines()[0])
    move_to("b" * 40)
    with pytest.raises(UserError, match=f"main is commit {'b' * 40} here, and was {'a' * 40} when"):
        evaluate()
    plan()
    after = json.loads(evaluate().read_text().splitlines()[0])
    assert after["plan_digest"] != before["plan_digest"]
    how = read_summary(spec.with_name("summary.json")).eval_params
    assert how["model_commit"] == "b" * 40
