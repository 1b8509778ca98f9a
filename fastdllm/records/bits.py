"""Which items were right, as one bit each: packed for files, compared as integers.

The first item is the most significant bit of the first byte; the last byte is padded with 0.
Imports nothing heavy, so that status can use it.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence


def packed(correct: Sequence[bool]) -> str:
    """Return Base64 of one bit per item."""
    n_bytes = (len(correct) + 7) // 8
    number = int("".join("1" if right else "0" for right in correct) or "0", 2)
    number <<= 8 * n_bytes - len(correct)
    return base64.b64encode(number.to_bytes(n_bytes, "big")).decode("ascii")


def as_number(n: int, text: str) -> int:
    """Return the bits of `n` items as one number whose lowest bit is the last item.

    Raises:
        ValueError: the text is no Base64, or holds the bits of another number of items.
    """
    content = base64.b64decode(text, validate=True)
    if n < 0 or len(content) != (n + 7) // 8:
        raise ValueError(f"{len(content)} bytes are not the bits of {n} items")
    return int.from_bytes(content, "big") >> (8 * len(content) - n)


def unpacked(n: int, text: str) -> list[bool]:
    """Return the bits of `n` items in order."""
    return [digit == "1" for digit in f"{as_number(n, text):0{n}b}"] if n else []


def ones(n: int, number: int) -> list[int]:
    """Return the indices of the items whose bit is 1."""
    return [place for place, digit in enumerate(f"{number:0{n}b}") if digit == "1"] if n else []


def in_groups(number: int, sizes: Sequence[int]) -> list[int]:
    """Return how many bits of each group are 1; groups follow each other from the first item on."""
    counts, remaining = [], sum(sizes)
    for size in sizes:
        remaining -= size
        counts.append((number >> remaining & (1 << size) - 1).bit_count())
    return counts
