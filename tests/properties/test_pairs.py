"""A context and its options have the tokens that encoding both together gives."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from fastdllm.model.tokenizer import encode
from fastdllm.tasks.pairs import PairEncoder
from tests.support.real_size_tokenizer import real_size_tokenizer
from tests.support.word_tokenizers import OF_WORDS, PIECES, of_words

texts = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@cache
def named(name: str) -> Any:
    if name == "real size":
        return real_size_tokenizer()
    if name == "tiny":
        return AutoTokenizer.from_pretrained("models/tiny")
    return of_words(**OF_WORDS[name])


def together(tokenizer: Any, context: str, option: str) -> Any:
    """Encode both texts anew for each option."""
    stem, text = context.rstrip(" "), context + option
    tokens, prefix = encode(tokenizer, text), encode(tokenizer, stem)
    if tokens[: len(prefix)] != prefix:
        rest = tokenizer(text[len(stem) :], add_special_tokens=False)
        return prefix, tuple(rest["input_ids"])
    return prefix, tokens[len(prefix) :]


@pytest.mark.parametrize("name", ["real size", "tiny", *OF_WORDS])
@settings(max_examples=50, deadline=None)
@given(context=texts, options=st.lists(texts, min_size=1, max_size=3))
@example(context="e\u0301 <|im_start|>assistant\n", options=["A", "(A)"])
@example(context="the<|im_start|>", options=["A", " A", "<|im_end|>"])
@example(context="(<s><|im_", options=["start|>", "start|>A"])
@example(context="(<|im_start|>", options=["A"])
@example(context="(<s>", options=["\u0338", "A"])
@example(context="A start|>the<|im_start|>", options=["A"])
@example(context="  <|im_start|>  ", options=["\n", "  "])
def test_a_context_and_its_options_have_the_tokens_of_both_together(
    name: str, context: str, options: list[str]
) -> None:
    tokenizer = named(name)
    encode_pair = PairEncoder(tokenizer)
    for option in options:
        assert encode_pair(context, option) == together(tokenizer, context, option)


def test_a_context_in_turns_is_encoded_once() -> None:
    tokenizer, encoded = real_size_tokenizer(), []

    class Counted:
        def __call__(self, text: str, **options: Any) -> Any:
            encoded.append(text)
            return tokenizer(text, **options)

        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

    encode_pair = PairEncoder(Counted())
    contexts = [f"<|im_start|>user\nWhat is {n}?<|im_end|>\n<|im_start|>assistant\n" for n in "12"]
    for context in contexts:
        for option in "AB":
            assert encode_pair(context, option) == together(tokenizer, context, option)
    ends = [f"<|im_start|>assistant\n{option}" for option in "AB"]
    assert encoded == [contexts[0], *ends, contexts[1]]
