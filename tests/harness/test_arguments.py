"""What `--model_args` may say, and what of it the name of a cache of answers carries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastdllm.common.errors import UserError
from fastdllm.harness.answerer import device_of_process
from fastdllm.harness.arguments import read_arguments

pytestmark = pytest.mark.usefixtures("project")

PUBLISHED = {
    "threshold": 0.9,
    "use_block_cache": True,
    "show_speed": True,
    "reuse_k": 2,
    "layer_subset": "first",
    "experiment_name": "trial",
    "max_new_tokens": 24,
    "mask_id": 255,
    "small_block_size": 8,
    "bd_size": 32,
    "device": "cpu",
    "batch_size": "4",
}
POLICY = """\
from fastdllm.policy import Policy
from fastdllm.validation import StrictModel


class Plain(Policy):
    class Parameters(StrictModel):
        tau_skip: float = 0.5
"""


@pytest.fixture
def own_parameter(project: Path) -> Path:
    """The experiment's policy has a parameter of its own."""
    (project / "experiments/trial/generation_functions.py").write_text(POLICY)
    return project


def test_every_published_argument_is_taken(model_folder: Path) -> None:
    arguments = read_arguments({"model_path": str(model_folder), **PUBLISHED})
    settings = arguments.settings
    assert (settings.threshold, settings.reuse_k, settings.layer_subset) == (0.9, 2, "first")
    assert (settings.block_size, settings.mask_id, settings.max_new_tokens) == (32, 255, 24)
    assert arguments.model.show_speed and arguments.model.batch_size == 4
    assert arguments.policy_class is not None and arguments.policy_class.__name__ == "Plain"


@pytest.mark.usefixtures("own_parameter")
def test_a_parameter_of_the_policy_is_an_argument() -> None:
    arguments = read_arguments({"pretrained": "x", "experiment_name": "trial", "tau_skip": 0.1})
    assert arguments.parameters.model_dump() == {"tau_skip": 0.1}
    with pytest.raises(UserError, match="unknown argument 'tau_skip'"):
        read_arguments({"pretrained": "x", "tau_skip": 0.1})


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"treshold": 0.9}, "--model_args: unknown argument 'treshold'; did you mean 'threshold'?"),
        ({"show_sped": True}, "did you mean 'show_speed'?"),
        ({"threshold": 2}, "threshold: 2 is not allowed"),
        ({"batch_size": "many"}, "batch_size: .* it should be at least 1, or auto"),
        ({"dtype": "float8"}, "dtype: 'float8' is not allowed"),
        ({"experiment_name": "trail"}, "unknown experiment 'trail'; did you mean 'trial'?"),
        ({"bd_size": 16, "block_size": 32}, "block_size 32 contradicts block_size 16"),
        ({"reuse_k": 2}, "reuse_k 2 needs layer_subset as well"),
    ],
)
def test_a_wrong_argument_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        read_arguments({"model_path": "x", **wrong})


def test_the_model_has_to_be_named() -> None:
    with pytest.raises(UserError, match="--model_args: model_path: this key is required"):
        read_arguments({"threshold": 0.9})


@pytest.mark.parametrize("value", ["auto", "auto:4"])
def test_a_batch_size_that_memory_decides_is_auto(value: str) -> None:
    assert read_arguments({"model_path": "x", "batch_size": value}).model.batch_size == "auto"


def test_the_digest_follows_what_decides_the_answers(
    own_parameter: Path, model_folder: Path
) -> None:
    base = {"model_path": str(model_folder), "dtype": "float32", "device": "cpu"}
    others = [
        {"threshold": 0.8},
        {"seed": 1},
        {"dtype": "bfloat16"},
        {"likelihood_mode": "published"},
        {"experiment_name": "trial"},
        {"experiment_name": "trial", "tau_skip": 0.1},
        {"model_path": str(own_parameter / "other")},
    ]
    (own_parameter / "other").mkdir()
    for name in ("config.json", "tokenizer.json"):
        (own_parameter / "other" / name).write_bytes((model_folder / name).read_bytes())
    (own_parameter / "other/model.safetensors").write_bytes(b"other weights")
    digest = read_arguments(base).digest()
    digests = {read_arguments({**base, **other}).digest() for other in others}
    assert len(digests | {digest}) == len(others) + 1
    for same in ({"batch_size": 8}, {"show_speed": True}, {"chunk_size": 2}, {"threshold": 0.9}):
        assert read_arguments({**base, **same}).digest() == digest


def test_each_process_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert device_of_process("cuda:0", 4) == "cuda:3"
    assert device_of_process("cpu", 4) == "cpu"
    assert device_of_process("cuda:1", 4) == "cuda:1"
    assert device_of_process("cuda:0", 1) == "cuda:0"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert device_of_process("cuda:0", 4) == "cpu"
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device_of_process("cuda:0", 1) == "cpu"
