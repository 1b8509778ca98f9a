"""What one token says by itself, whatever stands beside it.

A token of a byte-level vocabulary may hold a part of a character, such as half an emoji; its bytes
are kept, and neighbours complete them.
"""

from __future__ import annotations

from typing import Any

from fastdllm.model.tokenizer import special_tokens
from fastdllm.traces.parts import TokenPiece


class Pieces:
    """The pieces of one tokenizer, made when first asked for."""

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers.decoders import ByteLevel

        self._tokenizer = tokenizer
        self._special = set(special_tokens(tokenizer).values())
        self._bytes = {}
        if isinstance(tokenizer.backend_tokenizer.decoder, ByteLevel):
            self._bytes = _byte_of_characters()
        self._made: dict[int, TokenPiece] = {}

    def __getitem__(self, token: int) -> TokenPiece:
        if token not in self._made:
            self._made[token] = self._piece(token)
        return self._made[token]

    def _piece(self, token: int) -> TokenPiece:
        added = self._tokenizer.added_tokens_decoder.get(token)
        name = self._tokenizer.convert_ids_to_tokens(token)
        if name is None:
            # A model may have more rows than its tokenizer has tokens.
            return TokenPiece(text=f"<{token}>", is_special=True)
        if added is not None:
            return TokenPiece(text=str(added), is_special=True if token in self._special else None)
        if not self._bytes or not self._bytes.keys() >= set(name):
            return TokenPiece(
                text=self._tokenizer.decode([token], clean_up_tokenization_spaces=False)
            )
        content = bytes(self._bytes[character] for character in name)
        try:
            return TokenPiece(text=content.decode())
        except UnicodeDecodeError:
            return TokenPiece(text=content.decode(errors="backslashreplace"), bytes=content.hex())


def _byte_of_characters() -> dict[str, int]:
    """Return which byte each character of a byte-level vocabulary stands for (GPT-2's table).

    Printable bytes of Latin-1 stand for themselves; the others are counted from U+0100.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + n): byte for n, byte in enumerate(others)}
