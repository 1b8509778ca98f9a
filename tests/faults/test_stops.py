"""Each stop token of a model ends an answer, whichever file names it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from fastdllm import DecodingSettings, generate, load_model
from fastdllm.cli import main
from fastdllm.common.errors import UserError
from fastdllm.model.config import read_config
from fastdllm.model.tokenizer import load_tokenizer, prompt_ids
from fastdllm.runs.evaluation import Evaluation
from fastdllm.runs.spec import read_spec
from tests.support.run_project import STOP, silent

QUESTION = "What is 0 + 1? "  # the first item of the task
SETTINGS = DecodingSettings(max_new_tokens=24)


def write_stops(folder: Path, config: Any, generation: Any = None) -> None:
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(raw | {"eos_token_id": config}))
    if generation is not None:
        text = json.dumps({"eos_token_id": generation})
        (folder / "generation_config.json").write_text(text)


@pytest.fixture(scope="session")
def model_folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the model, to be changed."""
    return shutil.copytree(model_folder, tmp_path_factory.mktemp("stops") / "model")


@pytest.fixture
def answer(model_folder: Path, tokenizer: Any) -> list[int]:
    """What the model answers as long as nothing but its first stop token ends it."""
    write_stops(model_folder, STOP)
    (model_folder / "generation_config.json").unlink(missing_ok=True)
    ids = prompt_ids(tokenizer, QUESTION)
    (generation,) = generate(load_model(model_folder, device="cpu"), [ids], SETTINGS)
    assert generation.finish_reason == "length"
    return generation.token_ids


@pytest.mark.parametrize("place", ["config", "generation", "both"])
def test_the_second_stop_token_ends_an_answer(
    answer: list[int], model_folder: Path, tokenizer: Any, place: str
) -> None:
    second = answer[5]
    stops = {"config": ([STOP, second],), "generation": (STOP, second), "both": (STOP, [1, second])}
    write_stops(model_folder, *stops[place])
    model = load_model(model_folder, device="cpu")
    (generation,) = generate(model, [prompt_ids(tokenizer, QUESTION)], SETTINGS)
    assert generation.finish_reason == "stop"
    assert generation.token_ids == answer[: answer.index(second) + 1]


def test_a_stop_token_that_is_given_is_the_only_one(
    answer: list[int], model_folder: Path, tokenizer: Any
) -> None:
    write_stops(model_folder, [STOP, answer[5]])
    settings = DecodingSettings(max_new_tokens=24, stop_token=STOP)
    model = load_model(model_folder, device="cpu")
    (generation,) = generate(model, [prompt_ids(tokenizer, QUESTION)], settings)
    assert generation.token_ids == answer


def test_a_run_and_a_prompt_by_hand_end_alike(
    answer: list[int],
    model_folder: Path,
    make_plan_on_disk: Any,
    make_spec: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_stops(model_folder, STOP, [STOP, answer[5]])
    make_plan_on_disk()
    spec = make_spec()
    Evaluation(read_spec(spec), spec.parent, silent(), lambda _: None).evaluate()
    first = json.loads((spec.parent / "samples.jsonl").read_text().split("\n")[0])
    assert first["tokens"] == answer.index(answer[5]) + 1
    arguments = ["generate", QUESTION, "--model", str(model_folder), "--max-new-tokens", "24"]
    assert main(arguments) == 0
    *lines, figures = capsys.readouterr().out.removesuffix("\n").split("\n")
    assert re.match(r"\d+ tokens", figures)
    assert int(figures.split()[0]) == first["tokens"]
    # The stop token is an ordinary letter here, and no part of the answer.
    text = "".join(map(chr, answer[: answer.index(answer[5])]))
    assert "\n".join(lines) == first["answer"] == text


@pytest.mark.usefixtures("answer")
def test_the_order_is_that_of_the_files(model_folder: Path) -> None:
    write_stops(model_folder, 7, [STOP, 7, 9])
    assert read_config(model_folder).stop_tokens == (7, STOP, 9)
    write_stops(model_folder, None, 9)
    assert read_config(model_folder).stop_tokens == (9, STOP), "the tokenizer's is the last"


@pytest.mark.parametrize("as_mapping", [True, False])
def test_the_end_that_only_the_tokenizer_names_ends_an_answer(
    answer: list[int], model_folder: Path, tokenizer: Any, *, as_mapping: bool
) -> None:
    end = answer[5]
    text = tokenizer.convert_ids_to_tokens(end)
    folder = shutil.copytree(model_folder, model_folder.with_name(f"end_{as_mapping}"))
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    token = {"content": text, "special": True, **flags}
    file = folder / "tokenizer.json"
    values = json.loads(file.read_text())
    values["added_tokens"].append({"id": end, **token})
    file.write_text(json.dumps(values))
    file = folder / "tokenizer_config.json"
    named = {"__type": "AddedToken", **token} if as_mapping else text
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token": named}))
    assert load_tokenizer(str(folder)).eos_token_id == end
    model = load_model(folder, device="cpu")
    assert model.config.stop_tokens == (STOP, end)
    (generation,) = generate(model, [prompt_ids(tokenizer, QUESTION)], SETTINGS)
    assert generation.token_ids == answer[: answer.index(end) + 1]
    (folder / "tokenizer.json").unlink()  # as where vocab.json and merges.txt are the tokenizer
    values = json.loads(file.read_text()) | {"added_tokens_decoder": {str(end): token}}
    file.write_text(json.dumps(values))
    assert read_config(folder).stop_tokens == (STOP, end)


@pytest.mark.usefixtures("answer")
@pytest.mark.parametrize("wrong", [-1, 256, "<|im_end|>", True, 2.0, [254, -1], [[254]]])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_an_id_that_is_none_is_refused(model_folder: Path, wrong: Any, name: str) -> None:
    write_stops(model_folder, *([wrong] if name == "config.json" else [STOP, wrong]))
    line = rf"/{name}: eos_token_id: .+ is not allowed; it should be the id of a token, 0 to 255"
    with pytest.raises(UserError, match=line):
        read_config(model_folder)


@pytest.mark.usefixtures("answer")
def test_a_broken_generation_config_is_refused(model_folder: Path) -> None:
    for text in ("[]", "{", ""):
        (model_folder / "generation_config.json").write_text(text)
        with pytest.raises(UserError, match=r"generation_config\.json: "):
            read_config(model_folder)
