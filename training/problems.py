"""The seeded generator of arithmetic word problems.

A problem is a question of a few sentences and an answer that reasons in short sentences, each with
its calculation, and ends in `#### 27`. One to three calculations; every result lies in 10..99. The
text of the question alone decides whether a problem is held out for testing, so no test problem can
ever be drawn for training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

# Pronoun and possessive follow the name, so that the reader (and the model) need not guess.
PEOPLE = {
    "Tom": ("He", "his"), "Ben": ("He", "his"), "Max": ("He", "his"), "Sam": ("He", "his"),
    "Leo": ("He", "his"), "Jack": ("He", "his"), "Paul": ("He", "his"), "Omar": ("He", "his"),
    "Anna": ("She", "her"), "Mia": ("She", "her"), "Eva": ("She", "her"), "Lily": ("She", "her"),
    "Nina": ("She", "her"), "Rosa": ("She", "her"), "Kate": ("She", "her"), "Zoe": ("She", "her"),
    "Carl": ("He", "his"), "Hugo": ("He", "his"), "Ivan": ("He", "his"), "Noah": ("He", "his"),
    "Emma": ("She", "her"), "Ruth": ("She", "her"), "Lena": ("She", "her"), "Sara": ("She", "her"),
}  # fmt: skip
THINGS = (
    "pens", "apples", "books", "cards", "coins", "stamps",
    "shells", "eggs", "cups", "balls", "toys", "keys",
    "plums", "rings", "masks", "nuts", "hats", "kites", "lamps", "flags",
)  # fmt: skip
CONTAINERS = ("boxes", "bags", "packs", "jars")
GAINS = ("buys", "finds", "gets", "wins")
LOSSES = ("loses", "sells", "gives away", "breaks")

SMALLEST, LARGEST = 10, 99
# A change below 4 would make the step trivial.
SMALLEST_CHANGE = 4
STEP_WEIGHTS = {1: 0.25, 2: 0.4, 3: 0.35}
HELD_OUT_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Calculation:
    """One step `left operator right = result`, with the operator + - or *."""

    left: int
    operator: str
    right: int

    @property
    def result(self) -> int:
        return evaluate(self.left, self.operator, self.right)

    def __str__(self) -> str:
        return f"{self.left}{self.operator}{self.right}={self.result}"


@dataclass(frozen=True, slots=True)
class Problem:
    """A word problem: its text, its reasoned answer, and the calculations behind it."""

    question: str
    answer: str
    calculations: tuple[Calculation, ...]

    @property
    def result(self) -> int:
        return self.calculations[-1].result


def evaluate(left: int, operator: str, right: int) -> int:
    """Return `left operator right` for the operators + - and *."""
    return {"+": left + right, "-": left - right, "*": left * right}[operator]


def is_held_out(question: str) -> bool:
    """Whether the question belongs to the test split; a function of its text alone."""
    digest = hashlib.sha256(question.encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def draw_problem(rng: Random, *, held_out: bool, steps: int | None = None) -> Problem:
    """Draw a problem of the training or (`held_out`) the test split.

    `steps` fixes the number of calculations (1 to 3); None draws it.
    """
    while True:
        wanted = steps or rng.choices(*zip(*STEP_WEIGHTS.items(), strict=True))[0]
        problem = _Story(rng).tell(wanted)
        if is_held_out(problem.question) == held_out:
            return problem


def draw_product(rng: Random) -> Calculation:
    """Draw m*a with m in 2..9, a >= 3 and a result in 10..99."""
    factor = rng.randint(2, 9)
    return Calculation(factor, "*", rng.randint(max(3, -(-SMALLEST // factor)), LARGEST // factor))


def draw_sum(rng: Random, left: int) -> Calculation | None:
    """Draw left+b with a result of at most 99; None when there is no room."""
    room = LARGEST - left
    if room < SMALLEST_CHANGE:
        return None
    return Calculation(left, "+", rng.randint(SMALLEST_CHANGE, room))


def draw_difference(rng: Random, left: int) -> Calculation | None:
    """Draw left-b with a result of at least 10; None when there is no room."""
    room = left - SMALLEST
    if room < SMALLEST_CHANGE:
        return None
    return Calculation(left, "-", rng.randint(SMALLEST_CHANGE, room))


def draw_double(left: int) -> Calculation | None:
    """Return 2*left, or None when that exceeds 99."""
    return Calculation(2, "*", left) if 2 * left <= LARGEST else None


class _Story:
    """One problem in the making: the sentences so far and what the last person now has."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.thing = rng.choice(THINGS)
        self.people = rng.sample(sorted(PEOPLE), 4)
        self.person = self.people.pop()
        self.value = 0
        self.sentences: list[str] = []
        self.reasons: list[str] = []
        self.calculations: list[Calculation] = []

    def tell(self, steps: int) -> Problem:
        self._begin(with_boxes=self.rng.random() < 0.5)
        endings = 0.2
        while len(self.calculations) < steps:
            last = len(self.calculations) == steps - 1
            if last and self.rng.random() < endings and self._together():
                return self._finish(f"How many {self.thing} do they have together?")
            self.rng.choice(self._events())()
        return self._finish(f"How many {self.thing} does {self.person} have now?")

    def _events(self) -> list[Callable[[], bool]]:
        return [self._gain, self._gain, self._lose, self._lose, self._double, self._compare]

    def _finish(self, request: str) -> Problem:
        question = " ".join([*self.sentences, request])
        answer = " ".join(self.reasons) + f"\n#### {self.value}"
        return Problem(question, answer, tuple(self.calculations))

    def _begin(self, *, with_boxes: bool) -> None:
        if not with_boxes:
            self.value = self.rng.randint(SMALLEST, LARGEST)
            self.sentences.append(f"{self.person} has {self.value} {self.thing}.")
            return
        product = draw_product(self.rng)
        container = self.rng.choice(CONTAINERS)
        self.sentences.append(
            f"{self.person} has {product.left} {container} with {product.right} {self.thing} each."
        )
        self._reason(product, f"{self.person} has {product} {self.thing}.")

    def _reason(self, calculation: Calculation, sentence: str) -> None:
        self.calculations.append(calculation)
        self.reasons.append(sentence)
        self.value = calculation.result

    def _change(self, calculation: Calculation | None, verbs: tuple[str, ...]) -> bool:
        if calculation is None:
            return False
        pronoun = PEOPLE[self.person][0]
        verb = self.rng.choice(verbs)
        self.sentences.append(f"{pronoun} {verb} {calculation.right} {self.thing}.")
        self._reason(calculation, f"Then {pronoun.lower()} has {calculation} {self.thing}.")
        return True

    def _gain(self) -> bool:
        return self._change(draw_sum(self.rng, self.value), GAINS)

    def _lose(self) -> bool:
        return self._change(draw_difference(self.rng, self.value), LOSSES)

    def _double(self) -> bool:
        calculation = draw_double(self.value)
        if calculation is None:
            return False
        pronoun, possessive = PEOPLE[self.person]
        self.sentences.append(f"{pronoun} doubles {possessive} {self.thing}.")
        self._reason(calculation, f"Then {pronoun.lower()} has {calculation} {self.thing}.")
        return True

    def _compare(self) -> bool:
        more = self.rng.random() < 0.5
        draw = draw_sum if more else draw_difference
        calculation = draw(self.rng, self.value)
        if calculation is None or not self.people:
            return False
        other, word = self.people.pop(), "more" if more else "fewer"
        self.sentences.append(
            f"{other} has {calculation.right} {word} {self.thing} than {self.person}."
        )
        self._reason(calculation, f"{other} has {calculation} {self.thing}.")
        self.person = other
        return True

    def _together(self) -> bool:
        calculation = draw_sum(self.rng, self.value)
        if calculation is None or not self.people:
            return False
        other = self.people.pop()
        self.sentences.append(f"{other} has {calculation.right} {self.thing}.")
        self._reason(calculation, f"Together they have {calculation} {self.thing}.")
        return True
