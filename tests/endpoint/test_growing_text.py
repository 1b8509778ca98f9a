"""The pieces of a streamed answer make up its text, whatever the tokens and the stop strings."""

from __future__ import annotations

from functools import cache
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdllm.endpoint.asking import no_byte
from fastdllm.endpoint.growing_text import PIECE, GrowingText
from fastdllm.model.tokenizer import load_tokenizer
from fastdllm.tasks.generation import AnswerText
from tests.support.real_size_tokenizer import real_size_tokenizer
from tests.support.word_tokenizers import of_words

STOPS = ["\n\n", "ab", "abac", "é", "数", "\N{REPLACEMENT CHARACTER}", "Question:", " ", "aaa"]


@cache
def named(name: str) -> Any:
    if name == "tiny":
        return load_tokenizer("models/tiny")
    return real_size_tokenizer() if name == "real size" else _of_bytes()


def _of_bytes() -> Any:
    """As LLaMA's: a space before each word but the first, and bytes for rare letters."""
    from tokenizers import decoders

    tokenizer = of_words()
    words = ["▁the", "▁A", "art", *(f"<0x{n:02X}>" for n in range(256))]
    tokenizer.add_tokens(words)
    tokenizer.backend_tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


@pytest.mark.parametrize("name", ["tiny", "real size", "bytes"])
@settings(deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_pieces_are_the_text(name: str, seed: int) -> None:
    tokenizer, draw = named(name), Random(seed)
    ids: list[int] = []
    # Any tokens, single bytes, most of which are parts of characters or of none, and texts.
    first = tokenizer.convert_tokens_to_ids("<0x00>") if name == "bytes" else 0
    for _ in range(draw.randrange(5)):
        ids += draw.choices(range(len(tokenizer)), k=draw.randrange(PIECE))
        ids += [first + draw.randrange(256) for _ in range(draw.randrange(6))]
        text = "".join(draw.choices("abc数é😀\n Q", k=draw.randrange(20)))
        ids += tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += [first + byte for byte in text[:3].encode()] if name == "bytes" else []
    stops = draw.sample(STOPS, draw.choice((0, 0, 1, 3)))
    whole, plain = AnswerText(tokenizer, until=stops), AnswerText(tokenizer, until=None)
    ended = whole.stop_when() or (lambda _: False)
    end = next((n for n in range(1, len(ids) + 1) if ended(ids[:n])), len(ids))
    growing = GrowingText(plain.text, stops, no_byte=no_byte(tokenizer))
    pieces, at = [], 0
    # As steps make them known: a few at a time.
    while (at := at + draw.randrange(10)) < end:
        pieces.append(growing.more(ids[:at]))
    text = whole.text(ids[:end], finish_reason="stop_when")
    pieces.append(growing.rest(text))
    assert "".join(pieces) == text


def test_text_is_told_as_soon_as_it_is_final() -> None:
    growing = GrowingText(lambda ids: bytes(ids).decode(errors="replace"), ["stop"])
    told = [growing.more("a数b st".encode()[:n]) for n in range(8)]
    assert told == ["", "a", "", "", "数", "b", " ", ""]
    assert growing.more("a数b stalk".encode()) == "stalk"


def test_pieces_that_are_not_the_text_are_a_bug() -> None:
    growing = GrowingText(lambda ids: "x" * len(ids))
    assert growing.more([1, 2]) == "xx"
    with pytest.raises(AssertionError):
        growing.rest("xy")
