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
from tokenizers import Tokenizer

from fastdllm.common.errors import UserError
from fastdllm.model.config import EMBEDDED_MODEL
from fastdllm.model.tokenizer import (
    JSON_FILES,
    load_prompt_tokenizer,
    load_tokenizer,
    prompt_ids,
)
from tests.support.mutations import mutated_json

TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"
TEXT = "Tom has 12 apples.\n"
# Each rule below splits one of these otherwise.
TEXTS = (TEXT, "he\ufb01 \u2460 e\u0301 \u00e9", "1234  tom'S\n\n x", "<|im_start|>Tom's<|im_end|>")

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
    with pytest.raises(UserError) as without_transformers:
        load_prompt_tokenizer(str(folder))
    assert str(without_transformers.value) == str(caught.value)
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


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}

BEGIN = "<|endoftext|>"
BEGINS = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": BEGIN, "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {BEGIN: {"id": BEGIN, "ids": [505], "tokens": [BEGIN]}},
}


@pytest.mark.parametrize("model_type", ["Fast_dLLM_Qwen", "qwen2"])
@pytest.mark.parametrize("name", ["Qwen2Tokenizer", "Qwen2TokenizerFast", "LlamaTokenizer", None])
@pytest.mark.parametrize(
    "rules",
    [
        {"normalizer": {"type": "NFKC"}},
        {"normalizer": {"type": "Lowercase"}},
        {"normalizer": None},
        {"pre_tokenizer": {**BYTES, "add_prefix_space": True, "use_regex": True}},
        {"pre_tokenizer": {"type": "Digits", "individual_digits": True}},
        {"model": {"ignore_merges": True, "merges": []}},
        {"decoder": {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}},
    ],
    ids=["NFKC", "Lowercase", "none", "add_prefix_space", "Digits", "ignore_merges", "decoder"],
)
def test_the_rules_of_the_file_count_whatever_class_the_model_names(
    folder: Path, rules: dict[str, Any], name: str | None, model_type: str
) -> None:
    original = Tokenizer.from_file(str(folder / TOKENIZER))
    model = rules.get("model", {})
    edit(
        folder / TOKENIZER, lambda file: file.update(rules | {"model": {**file["model"], **model}})
    )
    edit(folder / CONFIG, lambda file: file.update(tokenizer_class=name))
    edit(folder / "config.json", lambda file: file.update(model_type=model_type))
    loaded, exact = load_tokenizer(str(folder)), Tokenizer.from_file(str(folder / TOKENIZER))
    found = [prompt_ids(loaded, text, chat_template=False) for text in TEXTS]
    expected = [tuple(exact.encode(text, add_special_tokens=False).ids) for text in TEXTS]
    assert found == expected
    answers = [exact.decode(ids, skip_special_tokens=False) for ids in expected]
    assert [loaded.decode(ids) for ids in found] == answers
    brief = load_prompt_tokenizer(str(folder))
    assert [prompt_ids(brief, text, chat_template=False) for text in TEXTS] == expected
    assert [brief.decode(ids) for ids in found] == answers
    before = [tuple(original.encode(text, add_special_tokens=False).ids) for text in TEXTS]
    read = [original.decode(ids, skip_special_tokens=False) for ids in before]
    assert (expected, answers) != (before, read), "the rule has no effect on these texts"


def published_config() -> dict[str, Any]:
    """A tokenizer_config.json as the published models have it."""
    tokens = json.loads((EMBEDDED_MODEL / TOKENIZER).read_text())["added_tokens"]
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(token.pop("id")): token for token in tokens},
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "bos_token": None,
        "chat_template": (EMBEDDED_MODEL / "chat_template.jinja").read_text(),
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "extra_special_tokens": {},
        "model_max_length": 131_072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


PUBLISHED = published_config()


def test_files_as_the_published_models_have_them_load_with_the_same_ids(folder: Path) -> None:
    def as_published(file: dict[str, Any]) -> None:
        file["pre_tokenizer"]["pretokenizers"][1]["trim_offsets"] = False
        file.update(decoder=BYTES, post_processor=BYTES)
        file["model"].update(continuing_subword_prefix="", end_of_word_suffix="")
        for key in ("dropout", "ignore_merges"):
            del file["model"][key]

    before = load_tokenizer(str(folder))
    edit(folder / TOKENIZER, as_published)
    (folder / CONFIG).write_text(json.dumps(PUBLISHED))
    (folder / "chat_template.jinja").unlink()
    loaded = load_tokenizer(str(folder))
    for text in TEXTS:
        assert prompt_ids(loaded, text) == prompt_ids(before, text)
    assert loaded.eos_token_id == before.eos_token_id


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        (
            CONFIG,
            lambda file: file.update(add_prefix_space=True),
            "add_prefix_space is True, but False in tokenizer.json; correct",
        ),
        (
            CONFIG,
            lambda file: file.update(
                auto_map={"AutoTokenizer": ["a.B", None]}, tokenizer_class="B"
            ),
            "auto_map: the tokenizer is code of its own, which is never run",
        ),
        (
            CONFIG,
            lambda file: file.update(split_special_tokens=True),
            "split_special_tokens: special tokens of the chat template would be spelled out",
        ),
        (
            CONFIG,
            lambda file: file.update(
                added_tokens_decoder={"504": {"content": "<|im_end|>", "lstrip": True}}
            ),
            "lstrip of '<|im_end|>' is True, but False in tokenizer.json",
        ),
        (
            CONFIG,
            lambda file: file.update(add_bos_token=True, bos_token="<|endoftext|>"),
            "add_bos_token is True, but False in tokenizer.json",
        ),
        (
            TOKENIZER,
            lambda file: file.update(post_processor=BEGINS),
            "post_processor begins texts with '<|endoftext|>', which is not the bos_token",
        ),
        (
            TOKENIZER,
            lambda file: file["model"].update(dropout=0.1),
            "model.dropout: 0.1 splits texts at random",
        ),
    ],
)
def test_rules_that_are_not_followed_or_harm_every_prompt_are_refused(
    folder: Path, name: str, change: Edit, says: str
) -> None:
    edit(folder / name, change)
    assert says in refused(folder)


def test_a_begin_that_both_files_name_is_written(folder: Path, ids: tuple[int, ...]) -> None:
    edit(folder / TOKENIZER, lambda file: file.update(post_processor=BEGINS))
    for config in ({"bos_token": BEGIN}, {"bos_token": BEGIN, "add_bos_token": True}):
        edit(folder / CONFIG, lambda file, config=config: file.update(config))
        assert prompt_ids(load_tokenizer(str(folder)), TEXT, chat_template=False) == (505, *ids)


def test_an_end_that_is_also_the_begin_is_not_written_before_texts(
    folder: Path, ids: tuple[int, ...]
) -> None:
    ends = {**BEGINS, "single": BEGINS["single"][::-1]}
    edit(folder / TOKENIZER, lambda file: file.update(post_processor=ends))
    edit(folder / CONFIG, lambda file: file.update(bos_token=BEGIN))
    assert prompt_ids(load_tokenizer(str(folder)), TEXT, chat_template=False) == ids


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
    templates = [{"name": "default", "template": PUBLISHED["chat_template"]}]
    several = json.dumps(PUBLISHED | {"bos_token": BEGIN, "chat_template": templates}).encode()
    files = [(name, (EMBEDDED_MODEL / name).read_bytes()) for name in (TOKENIZER, CONFIG)]
    name, original = data.draw(st.sampled_from([*files, (CONFIG, several)]))
    content, keys = data.draw(mutated_json(original))
    (folder / name).write_bytes(content)
    try:
        found = prompt_ids(load_tokenizer(str(folder)), TEXT, chat_template=False)
    except UserError as error:
        assert refused(folder) == str(error)
    else:
        assert found == ids or keys & DECIDING
        brief = load_prompt_tokenizer(str(folder))
        assert prompt_ids(brief, TEXT, chat_template=False) == found
    finally:
        (folder / name).write_bytes((EMBEDDED_MODEL / name).read_bytes())
