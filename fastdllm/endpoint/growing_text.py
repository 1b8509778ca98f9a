"""The text of an answer as it grows: only what is final, so that the pieces make up the whole text.

Tokens are known from left to right here; what may still change is held back: the bytes of a
character that is not whole, and what may become a stop string.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile

# What half a character decodes to.
BROKEN = "\N{REPLACEMENT CHARACTER}"
# Tokens of a piece before a newer one begins; a piece is decoded again with each of its tokens.
PIECE = 32

Decode = Callable[[Sequence[int]], str]


class GrowingText:
    """Pieces of the text of one answer, in order.

    decode: of token ids without stop strings (`AnswerText.text` of no `until`). stops: the strings
    that end the answer and are no part of it. no_byte: of a tokenizer that spells rare letters in
    tokens of one byte, the token of a byte that no text has: each of a run of such tokens, letters
    included, is broken by one that does not fit.
    """

    def __init__(
        self, decode: Decode, stops: Sequence[str] = (), *, no_byte: int | None = None
    ) -> None:
        self._decode, self._stops, self._no_byte = decode, tuple(stops), no_byte
        self._told = ""
        # Text of the tokens before `_read`. Decoding begins at `_begin`, a piece before that, since
        # some decoders drop a space at the beginning of what they are given; its text up to `_read`
        # has `_lead` characters.
        self._text, self._begin, self._read, self._lead = "", 0, 0, 0

    def more(self, known: Sequence[int]) -> str:
        """Return what is new and final; `known`: all tokens so far."""
        window = known[self._begin :]
        text = self._text + self._decode(window)[self._lead :]
        whole = text.rstrip(BROKEN)
        if self._no_byte is not None:
            broken = self._text + self._decode([*window, self._no_byte])[self._lead :]
            pairs = zip(whole, broken, strict=False)
            whole = whole[: sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))]
        if len(known) - self._read >= PIECE and whole == text:
            self._text, self._begin, self._read = text, self._read, len(known)
            self._lead = len(self._decode(known[self._begin :]))
        told = len(self._told)
        stopped = [at for stop in self._stops if (at := whole.find(stop, told)) >= 0]
        end = min([len(whole) - self._held_back(whole), *stopped])
        piece = whole[told:end]
        self._told += piece
        return piece

    def rest(self, text: str) -> str:
        """Return what is left of the answer, whose whole text is `text`."""
        assert text.startswith(self._told), "the pieces of an answer are not its text"
        return text[len(self._told) :]

    def _held_back(self, text: str) -> int:
        """Length of the longest end of the text that may become a stop string."""
        return max((_overlap(text, stop) for stop in self._stops), default=0)


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` begins, short of the whole of it."""
    lengths = range(min(len(stop) - 1, len(text)), 0, -1)
    return next((length for length in lengths if text.endswith(stop[:length])), 0)
