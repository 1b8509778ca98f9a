"""Settings are validated once; each mistake is one line with the way out."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fastdllm.errors import UserError
from fastdllm.settings import DecodingSettings, layer_span
from fastdllm.validation import validated


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
        (
            {"reuse_k": 2, "layer_subset": "last", "use_block_cache": False},
            "reuse_k 2 needs the block cache",
        ),
        ({"max_new_tokens": 0}, "max_new_tokens: 0 is not allowed"),
        ({"top_p": 0.0}, "top_p: 0.0 is not allowed"),
    ],
)
def test_a_wrong_setting_is_one_line(values, problem):
    with pytest.raises(UserError) as error:
        validated(DecodingSettings, values, "experiment.yaml")
    line = str(error.value)
    assert line.startswith("experiment.yaml: ")
    assert problem in line
    assert "\n" not in line


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


def test_settings_and_policies_import_without_torch():
    code = "import fastdllm.policy, fastdllm.settings, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
