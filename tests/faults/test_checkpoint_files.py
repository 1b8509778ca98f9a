"""The files of a checkpoint, damaged: refused in one line, or the model that they describe."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from fastdllm import DecodingSettings, generate, load_model
from fastdllm.common.errors import UserError
from fastdllm.model.checkpoint import WEIGHT_INDEX, WEIGHTS
from fastdllm.model.config import read_config
from fastdllm.model.loading import load_plain_model
from fastdllm.model.plain import BlockDiffusionModel
from fastdllm.workflow.project.digests import FileDigests, model_digest
from tests.conftest import GOLDEN
from tests.support.mutations import mutated_json

RANDOM = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
PARTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the golden model, whose config names its mask."""
    folder = shutil.copytree(GOLDEN / "m6", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"mask_token_id": 255}))
    return folder


@pytest.fixture
def index(folder: Path) -> dict[str, str]:
    """The weights of the copy in two files with an index, which is returned."""
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)
    placed = {}
    for part, chosen in zip(PARTS, (names[:20], names[20:]), strict=True):
        save_file({name: tensors[name] for name in chosen}, folder / part)
        placed |= dict.fromkeys(chosen, part)
    (folder / WEIGHTS).unlink()
    write_index(folder, {"weight_map": placed})
    return placed


def write_index(folder: Path, values: Any) -> None:
    (folder / WEIGHT_INDEX).write_text(json.dumps(values))


def load(folder: Path) -> BlockDiffusionModel:
    return load_plain_model(folder, device="cpu", dtype="float32")


def loaded_or_refused(folder: Path) -> BlockDiffusionModel | None:
    """Load and decode; None if one line says why not."""
    try:
        model = load(folder)
        generate(model, [[1, 2, 3]], DecodingSettings(max_new_tokens=2))
    except UserError as error:
        assert "\n" not in str(error)
        return None
    return model


def have_same_weights(one: BlockDiffusionModel, other: BlockDiffusionModel) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


Values = Callable[[dict[str, str]], Any]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (lambda _: [], "expected a JSON object"),
        (lambda _: {}, "has no weight_map"),
        (lambda _: {"weight_map": None}, "has no weight_map"),
        (lambda _: {"weight_map": {}}, "has no weight_map"),
        (lambda _: {"weight_map": [PARTS[0]]}, "has no weight_map"),
        (lambda placed: {"weight_map": dict.fromkeys(placed, 1)}, "1 is no safetensors file"),
        (lambda placed: {"weight_map": placed | {"x": ["y"]}}, "x: ['y'] is no safetensors file"),
        (lambda placed: {"weight_map": placed | {"x": ""}}, "x: '' is no safetensors file"),
        (lambda placed: {"weight_map": placed | {"x": "config.json"}}, "is no safetensors file"),
        (
            lambda placed: {"weight_map": placed | {"x": f"../{PARTS[0]}"}},
            f"x: '../{PARTS[0]}' is no safetensors file of this folder",
        ),
        (
            lambda placed: {"weight_map": placed | {"x": "/a/b.safetensors"}},
            "x: '/a/b.safetensors' is no safetensors file of this folder",
        ),
        (
            lambda placed: {"weight_map": placed | {EMBEDDING: PARTS[1]}},
            f"places {EMBEDDING} in {PARTS[1]}, but it is in {PARTS[0]}",
        ),
        (
            lambda placed: {"weight_map": {k: v for k, v in placed.items() if k != EMBEDDING}},
            f"places {EMBEDDING} in no file, but it is in {PARTS[0]}",
        ),
    ],
)
def test_an_index_that_places_no_tensors_is_refused(
    golden_model: Callable[[str], BlockDiffusionModel],
    folder: Path,
    index: dict[str, str],
    values: Values,
    says: str,
) -> None:
    assert have_same_weights(load(folder), golden_model("m6"))
    write_index(folder, values(index))
    with pytest.raises(UserError) as caught:
        load(folder)
    assert str(folder / WEIGHT_INDEX) in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.usefixtures("index")
def test_a_run_is_not_planned_with_such_an_index(folder: Path) -> None:
    (folder / WEIGHT_INDEX).write_text("")
    with pytest.raises(UserError, match=rf"{WEIGHT_INDEX}: the file is empty"):
        model_digest(folder, FileDigests(path=folder / "digests"))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings: 'false' is not allowed"),
        ({"hidden_size": 2**40}, "hidden_size: 1099511627776 is not allowed"),
        ({"max_position_embeddings": 2**40}, "it should be a whole number from 1 to 16777216"),
        ({"num_hidden_layers": 2**24}, "model.layers.16777215.input_layernorm.weight is missing"),
        ({"head_dim": 1, "num_attention_heads": 64}, "head_dim 1 is odd"),
        ({"rope_theta": 10**400}, "it should be a number > 0"),
        ({"mask_token_id": 256}, "mask_token_id: 256 is not allowed"),
        ({"pad_token_id": -1}, "pad_token_id: -1 is not allowed"),
    ],
)
def test_sizes_that_no_model_has_are_refused(folder: Path, values: Any, says: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))
    with pytest.raises(UserError) as caught:
        load(folder)
    assert says in str(caught.value)


def test_the_mask_is_no_stop_token(folder: Path) -> None:
    for key in ("mask_id", "stop_token"):
        chosen = DecodingSettings(max_new_tokens=2, **{key: 254 if key == "mask_id" else 255})
        with pytest.raises(UserError, match="is the mask and a stop token"):
            generate(load(folder), [[1, 2, 3]], chosen)


def test_weights_that_are_whole_numbers_are_refused(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors[EMBEDDING] = tensors[EMBEDDING].to(torch.int8)
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(UserError, match=rf"{EMBEDDING} holds I8; quantized weights"):
        load(folder)


def test_a_model_in_memory_does_not_change_with_its_file(folder: Path) -> None:
    model = load_model(folder, device="cpu", dtype="float32")
    prompt, chosen = [[1, 2, 3]], DecodingSettings(max_new_tokens=8)
    expected = [answer.token_ids for answer in generate(model, prompt, chosen)]
    model = load_model(folder, device="cpu", dtype="float32")
    size = (folder / WEIGHTS).stat().st_size
    with (folder / WEIGHTS).open("r+b") as stream:  # as cp and a training that goes on do
        stream.truncate(0)
        stream.truncate(size)
    assert [answer.token_ids for answer in generate(model, prompt, chosen)] == expected


# Keys of config.json that decide what is computed; of others any value may change.
DECIDING = {
    "bd_size",
    "eos_token_id",
    "head_dim",
    "mask_token_id",
    "max_position_embeddings",
    "num_attention_heads",
    "num_key_value_heads",
    "pad_token_id",
    "rms_norm_eps",
    "rope_theta",
    "tie_word_embeddings",
}


@RANDOM
@given(data=st.data())
def test_a_damaged_config_is_refused_or_describes_the_same_model(
    data: st.DataObject, folder: Path
) -> None:
    original = (folder / "config.json").read_bytes()
    content, keys = data.draw(mutated_json(original))
    expected = read_config(folder)
    (folder / "config.json").write_bytes(content)
    model = loaded_or_refused(folder)
    (folder / "config.json").write_bytes(original)
    assert model is None or model.config == expected or keys & DECIDING


@RANDOM
@pytest.mark.usefixtures("index")
@given(data=st.data())
def test_a_damaged_index_is_refused_or_gives_the_same_weights(
    golden_model: Callable[[str], BlockDiffusionModel], data: st.DataObject, folder: Path
) -> None:
    original = (folder / WEIGHT_INDEX).read_bytes()
    content, _ = data.draw(mutated_json(original))
    (folder / WEIGHT_INDEX).write_bytes(content)
    model = loaded_or_refused(folder)
    (folder / WEIGHT_INDEX).write_bytes(original)
    assert model is None or have_same_weights(model, golden_model("m6"))


@RANDOM
@given(data=st.data())
def test_a_damaged_header_of_weights_is_refused_or_gives_the_same_weights(
    golden_model: Callable[[str], BlockDiffusionModel], data: st.DataObject, folder: Path
) -> None:
    original = (folder / WEIGHTS).read_bytes()
    length = int.from_bytes(original[:8], "little")
    header, keys = data.draw(mutated_json(original[8 : 8 + length]))
    announced = data.draw(st.sampled_from([len(header), length, 0, 2**63]))
    (folder / WEIGHTS).write_bytes(
        announced.to_bytes(8, "little") + header + original[8 + length :]
    )
    model = loaded_or_refused(folder)
    (folder / WEIGHTS).write_bytes(original)
    is_same = model is None or have_same_weights(model, golden_model("m6"))
    assert is_same or keys - {"__metadata__"}


@RANDOM
@given(data=st.data())
def test_weights_that_were_cut_off_are_refused(data: st.DataObject, folder: Path) -> None:
    original = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(original[: data.draw(st.integers(0, len(original) - 1))])
    model = loaded_or_refused(folder)
    (folder / WEIGHTS).write_bytes(original)
    assert model is None
