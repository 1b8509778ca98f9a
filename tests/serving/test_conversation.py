"""A conversation has the prompt of its chat template, fits the model, and is saved and loaded."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from fastdllm.common.errors import UserError
from fastdllm.model.config import EMBEDDED_MODEL
from fastdllm.model.loading import model_config
from fastdllm.model.tokenizer import prompt_ids
from fastdllm.serving.conversation import (
    Conversation,
    Turn,
    fitted,
    load_conversation,
    prompt_room,
    save_conversation,
)
from fastdllm.settings import DecodingSettings
from tests.support.real_size_tokenizer import real_size_tokenizer

QUESTION = "Tom has 12 pens. He finds 9 pens. How many pens does Tom have now?"
texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30).filter(
    lambda text: text.strip()
)
turns = st.builds(Turn, question=texts, answer=st.one_of(st.just(""), texts), stopped=st.booleans())
conversations = st.builds(
    Conversation, system=st.one_of(st.just(""), texts), turns=st.lists(turns, max_size=6)
)


@cache
def tiny_tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(EMBEDDED_MODEL)


@pytest.fixture
def tiny() -> Any:
    return tiny_tokenizer()


@pytest.mark.parametrize("make", [tiny_tokenizer, real_size_tokenizer])
def test_one_question_has_the_prompt_of_generate(make: Any) -> None:
    tokenizer = make()
    assert Conversation().prompt_ids(tokenizer, QUESTION) == prompt_ids(tokenizer, QUESTION)


def test_turns_and_system_text_are_written_in_order(tiny: Any) -> None:
    turn = Turn(question="a", answer="b")
    ids = Conversation(system="s").with_turn(turn).prompt_ids(tiny, "c")
    assert tiny.decode(ids) == (
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\na<|im_end|>\n"
        "<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n"
    )


@settings(max_examples=60, deadline=None)
@given(conversations, texts, st.integers(0, 400))
def test_the_fewest_oldest_turns_go(conversation: Conversation, question: str, room: int) -> None:
    tokenizer = tiny_tokenizer()
    lengths = [
        len(conversation.without_oldest(count).prompt_ids(tokenizer, question))
        for count in range(len(conversation.turns) + 1)
    ]
    expected = next((count for count, length in enumerate(lengths) if length <= room), None)
    if expected is None:
        with pytest.raises(UserError, match="has room for"):
            fitted(conversation, question, tokenizer, room=room)
        return
    prompt = fitted(conversation, question, tokenizer, room=room)
    assert prompt.dropped == expected
    assert prompt.conversation.turns == conversation.turns[expected:]
    assert prompt.conversation.system == conversation.system
    assert prompt.ids == prompt.conversation.prompt_ids(tokenizer, question)


def test_the_room_is_what_max_new_tokens_leaves_of_the_positions(tiny: Any) -> None:
    room = prompt_room(model_config(str(EMBEDDED_MODEL), None), DecodingSettings(max_new_tokens=96))
    assert room == 2048 - 96
    with pytest.raises(UserError, match=f"has room for {room}; shorten it, or lower max_new_toke"):
        fitted(Conversation(), "pens " * 2000, tiny, room=room)


def test_a_tokenizer_without_a_chat_template_is_said() -> None:
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template, which a conversation needs"):
        Conversation().prompt_ids(tokenizer, "a")


@settings(max_examples=30, deadline=None)
@given(conversations)
def test_what_is_saved_is_loaded(tmp_path_factory: Any, conversation: Conversation) -> None:
    path = tmp_path_factory.mktemp("saved") / "talk.json"
    save_conversation(conversation, path)
    assert load_conversation(path) == conversation
    save_conversation(Conversation(), path)
    assert load_conversation(path) == Conversation()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"\x89PNG\r\n\x00\xff", "not valid JSON"),
        (b"[1]", "expected a JSON object"),
        (b'{"turn": []}', "unknown key 'turn'; did you mean 'turns'?"),
        (b'{"turns": 3}', "turns: 3 is not allowed; it should be a list"),
        (b'{"turns": [{"question": "a"}]}', "answer: this key is required"),
        (b'{"turns": [{"question": "", "answer": "b"}]}', "should not be empty"),
        (b'{"system": "\\ud800"}', "system: holds half"),
    ],
)
def test_a_file_that_is_no_conversation_is_refused_in_one_line(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "talk.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_conversation(path)
    assert str(error.value).startswith(str(path))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_only_files_are_read(tmp_path: Path) -> None:
    for path, said in ((tmp_path, "is no file"), (tmp_path / "absent", "No such file")):
        with pytest.raises(UserError, match=said):
            load_conversation(path)


def test_another_file_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "thesis.json"
    path.write_text(json.dumps({"years": 4}))
    with pytest.raises(UserError, match="is there already, and is no conversation"):
        save_conversation(Conversation(), path)
    assert json.loads(path.read_text()) == {"years": 4}
