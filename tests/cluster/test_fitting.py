"""Memory of a model, from its config.json alone."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from safetensors import safe_open

from fastdllm.cluster.fitting import (
    ModelNeeds,
    fits,
    known_config,
    needed_gib,
)
from fastdllm.cluster.site import GpuKind

TINY = Path(__file__).parents[2] / "models" / "tiny"
# The published config.json of Qwen2.5-7B, which the models of Fast-dLLM v2 are made from.
SEVEN_B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "model_type": "Fast_dLLM_Qwen",
    "bd_size": 32,
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
    config = known_config(str(TINY))
    assert config is not None
    assert config.parameters == stored_numbers


def test_seven_billion_parameters_fill_a_card_of_16_gib_and_not_one_of_24(tmp_path: Path) -> None:
    config = known_config(model(tmp_path))
    assert config is not None
    assert config.parameters == 7_615_616_512
    needed = needed_gib(config, "float16", max_new_tokens=2048)
    assert 15.2 < needed < 15.6
    assert not fits(needed, 16)
    assert fits(needed, 24)
    assert not fits(needed_gib(config, "float32", max_new_tokens=2048), 24)


def test_longer_answers_need_more() -> None:
    config = known_config(str(TINY))
    assert config is not None
    short, long = (needed_gib(config, "float32", max_new_tokens=n) for n in (128, 4096))
    positions, keys_and_values, layers, width, size = 4096 - 128, 2, 14, 64, 4
    assert long - short == pytest.approx(
        positions * keys_and_values * layers * width * size / 2**30
    )


def test_tied_embeddings_count_once(tmp_path: Path) -> None:
    untied, tied = (
        known_config(model(tmp_path)),
        known_config(model(tmp_path / "tied", tie_word_embeddings=True)),
    )
    assert untied is not None
    assert tied is not None
    assert untied.parameters - tied.parameters == 152064 * 3584


def test_auto_takes_the_half_precision_that_the_card_has() -> None:
    old, new = (
        GpuKind(memory_gib=24, bfloat16=bfloat16, architecture="x") for bfloat16 in (False, True)
    )
    auto, full = (ModelNeeds("m", dtype, "auto", None, 128) for dtype in ("auto", "float32"))
    assert auto.dtype_on(old) == "float16"
    assert auto.dtype_on(new) == "bfloat16"
    assert full.dtype_on(new) == "float32"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"hidden_size": "large"}', None])
def test_of_a_config_that_cannot_be_used_nothing_is_known(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    assert known_config(str(tmp_path)) is None


def test_a_hub_id_is_looked_up_in_the_cache_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    storage = tmp_path / "models--owner--model"
    commit = "0123456789" * 4
    model(storage / "snapshots" / commit)
    (storage / "refs").mkdir()
    (storage / "refs" / "main").write_text(commit)
    config = known_config("owner/model")
    assert config is not None
    assert config == known_config("owner/model", commit)
    assert known_config("owner/model", "old") is None
    assert known_config("owner/other") is None


def test_a_name_that_is_no_hub_id_is_not_known() -> None:
    assert known_config("nowhere") is None
    assert known_config("owner/with blank") is None
