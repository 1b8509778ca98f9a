"""A model whose logits are no numbers ends what reads them; it never answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastdllm import DecodingSettings, generate
from fastdllm.cli import main
from fastdllm.decoding.finite import NotFinite, first_not_finite
from fastdllm.decoding.likelihood import LikelihoodRequest, score
from fastdllm.model.loading import load_model

GOLDEN = Path(__file__).parents[1] / "golden" / "m6"
DOWN, UP = "model.layers.3.mlp.down_proj.weight", "model.layers.3.mlp.up_proj.weight"
MASK = 255
PROMPTS = [[1, 2, 3], [4, 5, 6, 7]]


def spoilt(folder: Path, kind: str) -> Path:
    """A copy of a golden model with one weight that is no number, or too large for float16."""
    folder.mkdir()
    (folder / "config.json").write_bytes((GOLDEN / "config.json").read_bytes())
    weights = {key: value.clone() for key, value in load_file(GOLDEN / "model.safetensors").items()}
    if kind == "overflow":
        weights[UP] *= 3e6
        weights[DOWN] /= 3e6
    else:
        weights[DOWN][0, 0] = float(kind)
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("kind", ["nan", "inf", "-inf"])
def test_a_weight_that_is_no_number_ends_decoding(tmp_path: Path, kind: str) -> None:
    model = load_model(spoilt(tmp_path / "m", kind), device="cpu", dtype="float32")
    with pytest.raises(NotFinite, match=r"a full_block pass gave logits in float32") as caught:
        generate(model, PROMPTS, DecodingSettings(max_new_tokens=40, mask_id=MASK))
    assert "the weights are damaged" in str(caught.value)
    assert caught.value.request in (0, 1)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_model_beyond_float16_is_refused_there_and_exact_elsewhere(
    tmp_path: Path, temperature: float
) -> None:
    folder = spoilt(tmp_path / "m", "overflow")
    settings = DecodingSettings(max_new_tokens=40, mask_id=MASK, temperature=temperature)
    half = load_model(folder, device="cpu", dtype="float16")
    with pytest.raises(NotFinite, match="try dtype float32, or bfloat16"):
        generate(half, PROMPTS, settings)
    exact = load_model(folder, device="cpu", dtype="float32")
    assert all(answer.token_ids for answer in generate(exact, PROMPTS, settings))


@pytest.mark.parametrize("mode", ["published", "chain"])
def test_likelihoods_that_are_no_numbers_are_refused(tmp_path: Path, mode: Any) -> None:
    model = load_model(spoilt(tmp_path / "m", "nan"), device="cpu", dtype="float32")
    requests = [LikelihoodRequest((1, 2, 3), (4, 5)), LikelihoodRequest((1, 2, 3), (6,))]
    with pytest.raises(NotFinite, match="a log-likelihood pass gave logits"):
        score(model, requests, mode=mode, mask_id=MASK)


def test_bench_prints_no_table_of_such_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = spoilt(tmp_path / "m", "nan")
    config = json.loads((model / "config.json").read_text()) | {"mask_token_id": MASK}
    (model / "config.json").write_text(json.dumps(config))
    words = ["--model", str(model), "--device", "cpu", "--prompt-length", "8", "--batch"]
    assert (
        main(["bench", *words, "1", "--repeats", "1", "--requests", "1", "--max-new-tokens", "8"])
        == 2
    )
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "request 0: a full_block pass gave logits in float32" in printed.err.splitlines()[-1]


def test_only_the_sequence_of_the_bad_row_is_named() -> None:
    assert first_not_finite([0.0, 1.0, float("inf"), float("nan")]) == 2
    assert first_not_finite([1.0, -1.0]) is None
    assert first_not_finite([]) is None
    # Two infinities of opposite sign add up to no number either.
    assert first_not_finite([float("inf"), float("-inf")]) == 0


def test_a_run_ends_with_the_item(
    make_spec: Any, make_plan_on_disk: Any, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_plan_on_disk()
    spec = make_spec()
    file = model_folder / "model.safetensors"
    good = file.read_bytes()
    weights = {key: value.clone() for key, value in load_file(file).items()}
    weights[DOWN][0, 0] = torch.nan
    save_file(weights, file)
    try:
        record = json.loads(spec.read_text())
        record_of_model(record, model_folder)
        spec.write_text(json.dumps(record))
        assert main(["eval", str(spec)]) == 2
    finally:
        file.write_bytes(good)
    error = capsys.readouterr().err.splitlines()[-1]
    assert "item sums:" in error
    assert "are no finite numbers" in error
    assert not (spec.parent / "summary.json").exists()


def record_of_model(record: dict[str, Any], model_folder: Path) -> None:
    """Let the spec be of the model as it is now, as if it had been planned with it."""
    from fastdllm.workflow.project.digests import FileDigests, digest_of, model_digest

    record["decides"]["model_digest"] = model_digest(model_folder, FileDigests())
    record["fingerprint"] = digest_of(record["decides"])
