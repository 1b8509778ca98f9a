"""Memory of a model, from its config.json alone."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from safetensors import safe_open

from fastdllm.cluster.fitting import card_dtype, fits, read_shape

TINY = Path(__file__).parents[2] / "models" / "tiny"
# The published config.json of Qwen2.5-7B, which the models of Fast-dLLM v2 are made from.
SEVEN_B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
    "vocab_size": 152064,
}


def model(folder: Path, **changes: object) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SEVEN_B | changes))
    return str(folder)


def test_the_parameters_are_those_of_the_weights_file() -> None:
    with safe_open(TINY / "model.safetensors", "pt") as stored:
        stored_numbers = sum(
            math.prod(stored.get_slice(name).get_shape())
            for name in stored.keys()  # noqa: SIM118 (a safetensors handle is no mapping)
        )
    shape = read_shape(str(TINY))
    assert shape is not None
    assert shape.n_parameters == stored_numbers


def test_seven_billion_parameters_fill_a_card_of_16_gib_and_not_one_of_24(tmp_path: Path) -> None:
    shape = read_shape(model(tmp_path))
    assert shape is not None
    assert shape.n_parameters == 7_615_616_512
    needed = shape.needed_gib("float16", max_new_tokens=2048)
    assert 15.2 < needed < 15.6
    assert not fits(needed, 16)
    assert fits(needed, 24)
    assert not fits(shape.needed_gib("float32", max_new_tokens=2048), 24)


def test_longer_answers_need_more() -> None:
    shape = read_shape(str(TINY))
    assert shape is not None
    short, long = (shape.needed_gib("float32", max_new_tokens=n) for n in (128, 4096))
    positions, keys_and_values, layers, width, size = 4096 - 128, 2, 14, 64, 4
    assert long - short == pytest.approx(
        positions * keys_and_values * layers * width * size / 2**30
    )


def test_tied_embeddings_count_once(tmp_path: Path) -> None:
    apart, tied = (
        read_shape(model(tmp_path)),
        read_shape(model(tmp_path / "tied", tie_word_embeddings=True)),
    )
    assert apart is not None
    assert tied is not None
    assert apart.n_parameters - tied.n_parameters == 152064 * 3584


def test_auto_takes_the_half_precision_that_the_card_has() -> None:
    assert card_dtype("auto", bfloat16=False) == "float16"
    assert card_dtype("auto", bfloat16=True) == "bfloat16"
    assert card_dtype("float32", bfloat16=True) == "float32"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"hidden_size": "large"}', None])
def test_of_a_config_that_cannot_be_used_nothing_is_known(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    assert read_shape(str(tmp_path)) is None


def test_a_hub_id_is_looked_up_in_the_cache_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    storage = tmp_path / "models--owner--model"
    commit = "0123456789" * 4
    model(storage / "snapshots" / commit)
    (storage / "refs").mkdir()
    (storage / "refs" / "main").write_text(commit)
    shape = read_shape("owner/model")
    assert shape is not None
    assert shape == read_shape("owner/model", commit)
    assert read_shape("owner/model", "old") is None
    assert read_shape("owner/other") is None


def test_a_name_that_is_no_hub_id_is_not_known() -> None:
    assert read_shape("nowhere") is None
    assert read_shape("owner/with blank") is None
