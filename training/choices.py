"""The multiple-choice format: a one-step question, four numbers, one letter as the answer.

The wrong numbers are results of typical slips (the other operation, a forgotten or doubled carry,
an off-by-one, swapped digits). Questions are one-step word problems or bare calculations; the text
of the question decides the split, as for word problems.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from training.drills import Piece, draw_calculation
from training.problems import Calculation, draw_problem, evaluate, is_held_out

LETTERS = ("A", "B", "C", "D")
BARE_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class ChoiceProblem:
    """A question with four numbers; `correct` is the index of the right one."""

    question: str
    options: tuple[int, ...]
    correct: int

    @property
    def prompt(self) -> str:
        return f"{self.question}\n{list_options(self.options)}"

    @property
    def letter(self) -> str:
        return LETTERS[self.correct]


def list_options(options: tuple[int, ...]) -> str:
    """Write one option a line, each after its letter."""
    return "\n".join(f"{letter} {value}" for letter, value in zip(LETTERS, options, strict=True))


def draw_choice(rng: Random, *, held_out: bool) -> ChoiceProblem:
    """Draw a multiple-choice problem of the training or (`held_out`) the test split."""
    if rng.random() >= BARE_SHARE:
        problem = draw_problem(rng, held_out=held_out, steps=1)
        question, calculation = problem.question, problem.calculations[0]
    else:
        question, calculation = _draw_bare(rng, held_out=held_out)
    options, correct = draw_options(rng, calculation)
    return ChoiceProblem(question, options, correct)


def draw_options(rng: Random, calculation: Calculation) -> tuple[tuple[int, ...], int]:
    """Return four different numbers in random order and the index of the right one."""
    wrong = rng.sample(sorted(slips(calculation)), len(LETTERS) - 1)
    options = [calculation.result, *wrong]
    rng.shuffle(options)
    return tuple(options), options.index(calculation.result)


def slips(calculation: Calculation) -> set[int]:
    """Return the wrong results in 1..99 that typical slips lead to; always three or more."""
    right = calculation.result
    others = {evaluate(calculation.left, op, calculation.right) for op in "+-*"}
    near = {right + 10, right - 10, right + 1, right - 1, right + 2, right - 2}
    swapped = {right % 10 * 10 + right // 10}
    return {value for value in others | near | swapped if 1 <= value <= 99} - {right}


def draw_packed_choices(rng: Random, count: int) -> list[Piece]:
    """Return `count` bare multiple-choice items in a row, each followed by its letter.

    A quarter of them name the number itself instead of a calculation: finding the right option is
    learned before calculating and finding it.
    """
    pieces = []
    for _ in range(count):
        calculation = draw_calculation(rng)
        options, correct = draw_options(rng, calculation)
        asked = f"{calculation.left}{calculation.operator}{calculation.right}"
        if rng.random() < 0.25:
            asked = str(calculation.result)
        pieces += [
            Piece(f"{asked}\n{list_options(options)}\n=", False),
            Piece(LETTERS[correct], True),
            Piece("\n", False),
        ]
    return pieces


def _draw_bare(rng: Random, *, held_out: bool) -> tuple[str, Calculation]:
    while True:
        calculation = draw_calculation(rng)
        question = f"What is {calculation.left}{calculation.operator}{calculation.right}?"
        if is_held_out(question) == held_out:
            return question, calculation
