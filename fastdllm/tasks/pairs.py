"""The token ids of contexts and of their options, each context encoded once.

An option has a few tokens and its context a thousand, so encoding both together for each option
takes most of the time of a plan.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from fastdllm.model.tokenizer import begun, encode

Ids = tuple[int, ...]


class PairEncoder:
    """Splits the tokens of context + option where those of the context end.

    A tokenizer takes the texts between special tokens apart. So what stands behind the last one of
    a context, such as the one that begins a turn, is encoded with each option, and the rest once.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        added = {number: str(token) for number, token in tokenizer.added_tokens_decoder.items()}
        # None that a longer one may take the place of, once an option follows.
        self._special = {
            number: text
            for number, text in added.items()
            if not any(text in other for other in added.values() if other != text)
        }
        # The options of a context follow each other, and the ends of contexts are often alike.
        self._context = lru_cache(maxsize=8)(self._encoded_context)
        self._end = lru_cache(maxsize=1024)(self._ids)

    def __call__(self, context: str, option: str) -> tuple[Ids, Ids]:
        """Return the ids of a context, and those of an option behind it.

        Trailing spaces move to the option, because a word and the space before it are one token.
        Only spaces: a line break that ends a chat prompt stays, or every option would begin with
        it. Where a token would span the border, the option is encoded on its own: it would lose
        its beginning, which is what distinguishes options.
        """
        stem, text = context.rstrip(" "), context + option
        prefix, n_chars, n_ids = self._context(stem)
        ids = self._end(text[n_chars:]) if n_chars else encode(self._tokenizer, text)
        n_rest = len(prefix) - n_ids
        if ids[:n_rest] == prefix[n_ids:]:
            return prefix, ids[n_rest:]
        return prefix, self._ids(text[len(stem) :])

    def _encoded_context(self, text: str) -> tuple[Ids, int, int]:
        """Return the ids of a context, and the characters and ids before its last special token.

        Both are 0 where there is none, or nothing before it.
        """
        encoding = self._tokenizer(text, add_special_tokens=False)
        ids = tuple(encoding["input_ids"])
        prefix = begun(self._tokenizer, ids)
        for number in reversed(range(len(ids))):
            if ids[number] in self._special:
                start = encoding.token_to_chars(number).start
                if start and text.startswith(self._special[ids[number]], start):
                    return prefix, start, number + len(prefix) - len(ids)
        return prefix, 0, 0

    def _ids(self, text: str) -> Ids:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])
