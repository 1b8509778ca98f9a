"""Drills: rows of bare arithmetic, so that calculating is learned apart from reading.

A drill is a list of pieces, each a text and whether it is trained: " 12+15=" is given, "27" is to
be found. Without drills a model of this size stays at chance on the arithmetic for a long time.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from training.problems import (
    LARGEST,
    SMALLEST,
    Calculation,
    draw_difference,
    draw_double,
    draw_product,
    draw_sum,
)


class Piece(NamedTuple):
    """A piece of text; only trained pieces count in the loss."""

    text: str
    trained: bool


def draw_calculation(rng: Random) -> Calculation:
    """Draw a calculation as it occurs in word problems."""
    drawn = None
    while drawn is None:
        left = rng.randint(SMALLEST, LARGEST)
        kind = rng.choice(
            ("sum", "sum", "difference", "difference", "product", "product", "double")
        )
        if kind == "sum":
            drawn = draw_sum(rng, left)
        elif kind == "difference":
            drawn = draw_difference(rng, left)
        elif kind == "product":
            drawn = draw_product(rng)
        else:
            drawn = draw_double(left)
    return drawn


def draw_drill(rng: Random, count: int) -> list[Piece]:
    """Return the pieces of `count` calculations: " 12+15=27. 3*5=15."."""
    pieces = []
    for _ in range(count):
        calculation = draw_calculation(rng)
        given = f" {calculation.left}{calculation.operator}{calculation.right}="
        pieces += [Piece(given, False), Piece(str(calculation.result), True), Piece(".", False)]
    return pieces
