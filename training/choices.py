"""Multiple choice: a word problem, its answer up to the last "=", four numbers to go on with.

The wrong numbers are results of typical slips (the other operation, a forgotten or doubled carry,
an off-by-one, swapped digits). Never drawn for training: a model that answers word problems knows
how likely each number is.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from training.problems import LARGEST, SMALLEST, Calculation, draw_problem, evaluate

OPTIONS = 4


@dataclass(frozen=True, slots=True)
class ChoiceProblem:
    """A question, the answer as far as it is begun, and its possible next numbers.

    `correct` is the index of the right one. All have two digits, so that a sum of
    log-likelihoods favours none for its length.
    """

    question: str
    begun: str
    options: tuple[str, ...]
    correct: int


def draw_choice(rng: Random, *, held_out: bool) -> ChoiceProblem:
    """Draw a multiple-choice problem of the training or (`held_out`) the test split."""
    problem = draw_problem(rng, held_out=held_out)
    last = problem.calculations[-1]
    begun, sign, _ = problem.answer.rpartition("=")
    wrong = rng.sample(sorted(slips(last)), OPTIONS - 1)
    options = [last.result, *wrong]
    rng.shuffle(options)
    return ChoiceProblem(
        problem.question, begun + sign, tuple(map(str, options)), options.index(last.result)
    )


def slips(calculation: Calculation) -> set[int]:
    """Return the wrong two-digit results that typical slips lead to; always three or more."""
    right = calculation.result
    others = {evaluate(calculation.left, op, calculation.right) for op in "+-*"}
    near = {right + 10, right - 10, right + 1, right - 1, right + 2, right - 2}
    swapped = {right % 10 * 10 + right // 10}
    return {value for value in others | near | swapped if SMALLEST <= value <= LARGEST} - {right}
