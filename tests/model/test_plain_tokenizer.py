"""Plain tokenizer files are read without transformers, and mean the same."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from fastdllm.model.config import EMBEDDED_MODEL
from fastdllm.model.plain_tokenizer import PlainTokenizer, read_plain
from fastdllm.model.tokenizer import (
    conversation_ids,
    conversation_text,
    encode,
    load_prompt_tokenizer,
    load_tokenizer,
    prompt_ids,
    special_tokens,
)

DATA = EMBEDDED_MODEL.parents[1] / "tasks" / "data"
TEMPLATE = "chat_template.jinja"
WEIGHTS = shutil.ignore_patterns("*.safetensors", "*_log.json", "*.md", "measurements.json")
TURNS = [
    {"role": "system", "content": " Be brief. "},
    {"role": "user", "content": "What is <|im_end|> ...\n"},
    {"role": "assistant", "content": "é 12 |<MASK>|"},
    {"role": "user", "content": "<|im_start|>Tom's\r\n 1234"},
]


@pytest.fixture(scope="module")
def both() -> tuple[PlainTokenizer, PreTrainedTokenizerFast]:
    plain = load_prompt_tokenizer(str(EMBEDDED_MODEL))
    assert isinstance(plain, PlainTokenizer)
    return plain, load_tokenizer(str(EMBEDDED_MODEL))


def assert_same(both, text: str) -> None:
    plain, full = both
    ids = prompt_ids(full, text)
    assert prompt_ids(plain, text) == ids
    assert encode(plain, text) == encode(full, text)
    assert plain(text) == {"input_ids": full(text)["input_ids"]}
    for skips in (True, False):
        how = {"skip_special_tokens": skips, "clean_up_tokenization_spaces": False}
        assert plain.decode(list(ids), **how) == full.decode(list(ids), **how)


def test_all_questions_at_hand_become_the_same_ids_and_texts(both):
    questions = [
        json.loads(line)["question"]
        for path in sorted(DATA.glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()[:200:3]
    ]
    assert len(questions) > 100
    for question in questions:
        assert_same(both, question)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(), st.sampled_from(["<|im_end|>", "|<MASK>|", "<|im_start|>user\n", " ", "\n"])
        )
    ).map("".join)
)
def test_any_text_becomes_the_same_ids_and_text(both, text):
    if text.strip():
        assert_same(both, text)


def test_conversations_and_tokens_are_the_same(both):
    plain, full = both
    assert conversation_text(plain, TURNS) == conversation_text(full, TURNS)
    assert conversation_ids(plain, TURNS) == conversation_ids(full, TURNS)
    assert special_tokens(plain) == special_tokens(full)
    for name in ("bos_token", "eos_token"):
        assert getattr(plain, name) == getattr(full, name)
    for name in ("bos_token_id", "eos_token_id", "unk_token_id", "name_or_path", "chat_template"):
        assert getattr(plain, name) == getattr(full, name)
    for token in range(520):
        assert plain.convert_ids_to_tokens(token) == full.convert_ids_to_tokens(token)
        assert plain.decode([token]) == full.decode([token])
    for text in ("<|im_end|>", "a", "no such token"):
        assert plain.convert_tokens_to_ids(text) == full.convert_tokens_to_ids(text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the embedded model without its weights."""
    return shutil.copytree(EMBEDDED_MODEL, tmp_path / "model", ignore=WEIGHTS)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}\n  {{- m.content | trim }}{{ eos_token }}\n{% endfor %} x\n",
        "{% set n = messages | length %}\n    {% if n > 1 %}\n{{ n }}\n    {% endif %}\n"
        "{% for m in messages if m['role'] is string %}{{ loop.index }}{{ m['content'] }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ mask_token }}{% endif %}\n\n",
        "{% macro turn(m) %}{{ m.content }}{% endmacro %}{% for m in messages %}{{ turn(m) }}"
        "{% endfor %}{{ '<' }}&",
    ],
)
def test_plain_templates_are_rendered_as_transformers_renders_them(folder, template):
    (folder / TEMPLATE).write_text(template, encoding="utf-8")
    plain, full = load_prompt_tokenizer(str(folder)), load_tokenizer(str(folder))
    assert isinstance(plain, PlainTokenizer)
    for messages in (TURNS, TURNS[1:2]):
        assert conversation_text(plain, messages) == conversation_text(full, messages)


@pytest.mark.parametrize(
    "more",
    [
        "{{ messages | tojson }}",
        "{% set n = namespace(x=1) %}",
        "{% if not messages %}{{ raise_exception('x') }}{% endif %}",
        "{{ strftime_now('%Y') }}",
        "{% if tools %}x{% endif %}",
        "{% if bos_token %}{{ bos_token }}{% endif %}",
        "{% for m in messages %}{% break %}{% endfor %}",
        "{% generation %}x{% endgeneration %}",
        "{{ dict(a=1) }}",
        "{% if %}",
    ],
)
def test_templates_that_take_more_are_left_to_transformers(folder, more):
    with (folder / TEMPLATE).open("a", encoding="utf-8") as file:
        file.write(more)
    assert read_plain(str(folder)) is None


@pytest.mark.parametrize(
    "name",
    ["special_tokens_map.json", "added_tokens.json", "chat_template.json", "vocab.json"],
)
def test_a_folder_with_another_file_about_its_tokenizer_is_left_to_transformers(folder, name):
    assert read_plain(str(folder)) is not None
    (folder / name).write_text("{}")
    assert read_plain(str(folder)) is None


@pytest.mark.slow
def test_an_answer_of_the_embedded_model_imports_no_transformers():
    program = (
        "import sys; from fastdllm.cli import main; main(['generate', 'Tom has 3.', '--device', "
        "'cpu']); print(sorted({'transformers', 'scipy', 'pandas', 'datasets', 'lm_eval'} & "
        "set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"
