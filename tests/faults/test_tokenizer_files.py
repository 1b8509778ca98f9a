"""Tokenizer files that are broken, incomplete, or contradict each other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastdllm.common.errors import UserError
from fastdllm.model.config import EMBEDDED_MODEL
from fastdllm.model.tokenizer import JSON_FILES, load_tokenizer, prompt_ids
from tests.support.mutations import mutated_json

TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"
TEXT = "Tom has 12 apples.\n"

Edit = Callable[[dict[str, Any]], Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the embedded model without its weights."""
    names = shutil.ignore_patterns("*.safetensors", "*_log.json", "*.md", "measurements.json")
    return shutil.copytree(EMBEDDED_MODEL, tmp_path / "model", ignore=names)


def edit(file: Path, change: Edit) -> None:
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_tokenizer(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", JSON_FILES)
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (b'{"version": ', "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1]", "expected a JSON object"),
        (b"null", "expected a JSON object"),
    ],
)
def test_a_file_that_is_no_json_object_is_named(
    folder: Path, name: str, content: bytes, says: str
) -> None:
    (folder / name).write_bytes(content)
    assert f"{folder / name}: {says}" in refused(folder)


def added(**values: Any) -> Edit:
    """Return an edit that adds a token like the first added one."""
    return lambda file: file["added_tokens"].append({**file["added_tokens"][0], **values})


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        (TOKENIZER, added(id=99_999, content="<x>"), "'<x>' has the id 99999, but becomes 508"),
        (TOKENIZER, added(content="<x>"), "'<x>' has the id 504, but becomes 508"),
        (TOKENIZER, added(id=508), "'<|im_end|>' has the id 508, but becomes 504"),
        (TOKENIZER, added(id=-4, content="<x>"), "no usable tokenizer"),
        (
            TOKENIZER,
            lambda file: file["model"]["vocab"].update(Hi=3),
            "'<|im_end|>' has the id 504, but becomes 505",
        ),
        (TOKENIZER, lambda file: file.pop("model"), "no usable tokenizer"),
        (TOKENIZER, lambda file: file["model"].update(type="x"), "no usable tokenizer"),
        (
            CONFIG,
            lambda file: file.update(added_tokens_decoder={"9": {"content": "<y>"}}),
            f"{CONFIG}: token '<y>' has the id 9, but becomes 508",
        ),
        (
            CONFIG,
            lambda file: file.update(eos_token="<stop>"),
            f"{CONFIG}: eos_token: '<stop>' is no token of {TOKENIZER}",
        ),
        (
            CONFIG,
            lambda file: file.update(bos_token="<s>"),
            f"{CONFIG}: bos_token: '<s>' is no token of {TOKENIZER}",
        ),
        (CONFIG, lambda file: file.update(eos_token=5), "no usable tokenizer"),
        (CONFIG, lambda file: file.update(tokenizer_class=3), "no usable tokenizer"),
        (CONFIG, lambda file: file.update(model_max_length="x"), "no usable tokenizer"),
    ],
)
def test_a_token_with_another_id_or_none_is_refused(
    folder: Path, name: str, change: Edit, says: str
) -> None:
    edit(folder / name, change)
    assert says in refused(folder)


def test_a_tokenizer_that_is_not_there_is_refused(folder: Path) -> None:
    (folder / TOKENIZER).unlink()
    assert "a model folder needs tokenizer.json and tokenizer_config.json" in refused(folder)


@pytest.fixture(scope="module")
def ids() -> tuple[int, ...]:
    """What the embedded model reads for a text."""
    return prompt_ids(load_tokenizer(str(EMBEDDED_MODEL)), TEXT, chat_template=False)


# Keys that decide which ids a text becomes; of others any value may change.
DECIDING = {"added_tokens", "normalizer", "pre_tokenizer", "post_processor", "model"}


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_changed_file_is_refused_or_gives_the_same_ids(
    data: st.DataObject, folder: Path, ids: tuple[int, ...]
) -> None:
    name = data.draw(st.sampled_from((TOKENIZER, CONFIG)))
    original = (EMBEDDED_MODEL / name).read_bytes()
    content, keys = data.draw(mutated_json(original))
    try:
        (folder / name).write_bytes(content)
        found = prompt_ids(load_tokenizer(str(folder)), TEXT, chat_template=False)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert found == ids or keys & DECIDING
    finally:
        (folder / name).write_bytes(original)
