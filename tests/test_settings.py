"""Settings are validated once; each mistake is one line with the way out."""

from __future__ import annotations

import subprocess
import sys
from typing import Literal

import pytest
from pydantic import Field

from fastdllm.common.errors import UserError
from fastdllm.settings import DecodingSettings, layer_span
from fastdllm.validation import StrictModel, validated


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"treshold": 0.5}, "unknown key 'treshold'; did you mean 'threshold'?"),
        ({"threshold": 1.5}, "threshold: 1.5 is not allowed; it should be less than or equal to 1"),
        ({"threshold": "high"}, "threshold: 'high' is not allowed"),
        ({"small_block_size": 5}, "small_block_size 5 does not divide block_size 32"),
        ({"layer_subset": "last"}, "layer_subset 'last' needs reuse_k as well"),
        ({"reuse_k": 2}, "reuse_k 2 needs layer_subset as well: first, middle, last"),
        ({"reuse_k": 2, "layer_subset": "end"}, "layer_subset: 'end' is not allowed"),
        ({"reuse_k": 2, "layer_subset": [8, 3]}, "layer_subset: [8, 3] is not allowed"),
        ({"reuse_k": 2, "layer_subset": [1, 2, 3]}, "or the first layer and the one after"),
        ({"reuse_k": 2, "layer_subset": "3:"}, "layer_subset: '3:' is not allowed"),
        ({"lookahead_depth": -1}, "lookahead_depth: -1 is not allowed"),
        (
            {"reuse_k": 2, "layer_subset": "last", "use_block_cache": False},
            "reuse_k 2 needs the block cache",
        ),
        ({"max_new_tokens": 0}, "max_new_tokens: 0 is not allowed"),
        ({"top_p": 0.0}, "top_p: 0.0 is not allowed"),
        ({"threshold": True}, "threshold: true is not allowed; it should be a number"),
        ({"seed": False}, "seed: false is not allowed; it should be a number"),
        ({"mask_id": True}, "mask_id: true is not allowed; it should be a number"),
        ({"threshold": None}, "threshold: null is not allowed; it should be a number"),
        ({"seed": 1.5}, "seed: 1.5 is not allowed; it should be a whole number"),
        ({"seed": [1]}, "seed: [1] is not allowed; it should be a whole number"),
        ({"use_block_cache": "maybe"}, "it should be true or false"),
    ],
)
def test_a_wrong_setting_is_one_line(values, problem):
    with pytest.raises(UserError) as error:
        validated(DecodingSettings, values, "experiment.yaml")
    line = str(error.value)
    assert line.startswith("experiment.yaml: ")
    assert problem in line
    assert "\n" not in line


def test_numbers_from_the_command_line_are_text_and_a_switch_stays_a_switch():
    chosen = validated(
        DecodingSettings, {"threshold": "0.5", "seed": "3", "use_block_cache": False}, "options"
    )
    assert (chosen.threshold, chosen.seed, chosen.use_block_cache) == (0.5, 3, False)


@pytest.mark.parametrize("written", [[3, 8], (3, 8), "3:8", "3-8", "[3, 8]", "3,8"])
def test_a_range_of_layers_may_stand_for_a_named_subset(written):
    chosen = validated(DecodingSettings, {"reuse_k": 2, "layer_subset": written}, "options")
    assert chosen.layer_subset == (3, 8)
    assert layer_span((3, 8), 14) == (3, 8)
    with pytest.raises(ValueError, match="choose an end of at most 7"):
        layer_span((3, 8), 7)


class Inner(StrictModel):
    """A record in a record."""

    size: int = 1


class Outer(StrictModel):
    """One field of each kind that people fill in."""

    name: str = "x"
    names: list[str] = Field(default=["x"], min_length=1)
    inner: Inner = Inner()
    by_name: dict[str, Inner | None] = Field(default={})
    either: int | Literal["all"] | None = None
    several: dict[str, list[bool | int | float | str]] = Field(default={})
    counts: list[int] | str = "none"
    code: str = Field("a1", pattern="^[a-z][0-9]$")


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"name": 3}, "name: 3 is not allowed; it should be text; put it in quotes"),
        ({"name": [3]}, "name: [3] is not allowed; it should be text"),
        ({"names": "a"}, "names: 'a' is not allowed; it should be a list, such as [a, b]"),
        ({"names": []}, "names: [] is not allowed; it should not be empty"),
        ({"inner": 3}, "inner: 3 is not allowed; it should hold keys and values"),
        ({"by_name": ["a"]}, "by_name: ['a'] is not allowed; it should hold keys and values"),
        ({"by_name": {"a": 3}}, "by_name.a: 3 is not allowed; it should hold keys and values"),
        (
            {"by_name": {"a": {"siez": 3}}},
            "unknown key 'by_name.a.siez'; did you mean 'size'? valid: size",
        ),
        (
            {"either": "al"},
            "either: 'al' is not allowed; it should be a whole number, 'all' or null",
        ),
        (
            {"several": {"a": [1, None]}},
            "several.a.1: null is not allowed; it should be true or false, a number or text",
        ),
        (
            {"counts": [1, "x"]},
            "counts: [1, 'x'] is not allowed; it should be a list or text",
        ),
        ({"code": "b"}, "code: 'b' is not allowed; it should match the pattern ^[a-z][0-9]$"),
    ],
)
def test_a_wrong_value_is_one_plain_sentence(values, line):
    with pytest.raises(UserError) as error:
        validated(Outer, values, "file")
    assert str(error.value) == f"file: {line}"


def test_many_problems_are_counted_and_the_valid_keys_are_listed_once():
    with pytest.raises(UserError) as error:
        validated(Inner, {f"key_{n}": n for n in range(20)}, "file")
    assert str(error.value) == (
        "file: unknown keys 'key_0', 'key_1', 'key_2'; valid: size; and 17 more"
    )
    with pytest.raises(UserError) as error:
        validated(Inner, {"size": "big", "siz": 1, "other": 2}, "file")
    assert str(error.value) == (
        "file: size: 'big' is not allowed; it should be a whole number; "
        "unknown keys 'siz' (did you mean 'size'?), 'other'; valid: size"
    )


def test_a_long_value_is_cut():
    with pytest.raises(UserError) as error:
        validated(Inner, {"size": {"text": "x" * 1000}}, "file")
    assert len(str(error.value)) < 150


def test_the_defaults_are_valid_and_frozen():
    chosen = DecodingSettings()
    with pytest.raises(ValueError, match="frozen"):
        chosen.threshold = 0.5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("subset", "layers", "span"),
    [
        ("first", 28, (1, 13)),
        ("middle", 28, (8, 20)),
        ("last", 28, (16, 28)),
        ("first", 14, (1, 7)),
        ("middle", 14, (4, 10)),
        ("last", 14, (8, 14)),
        ("last", 2, (1, 2)),
    ],
)
def test_spans_are_the_published_share_of_the_layers(subset, layers, span):
    assert layer_span(subset, layers) == span


def test_a_model_of_one_layer_is_too_shallow():
    with pytest.raises(ValueError, match="needs a model with at least 2 layers"):
        layer_span("first", 1)


@pytest.mark.slow
def test_settings_and_policies_import_without_torch():
    code = "import fastdllm.policy, fastdllm.settings, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
