"""The seeded generator of longer problems: four to eight calculations, and a sentence of no use.

Same people, things and numbers as in `problems.py`, told in more ways and day by day. Whole boxes
may come or go, which takes two calculations. On one day something happens to another thing: true,
and of no matter. The answer says of each day what happened, and what that leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from training.problems import (
    CONTAINERS,
    GAINS,
    LARGEST,
    LOSSES,
    PEOPLE,
    SMALLEST,
    THINGS,
    Calculation,
    Problem,
    draw_difference,
    draw_double,
    draw_product,
    draw_sum,
    is_held_out,
)

# Calculations of a problem of the task; training begins with shorter ones.
STEPS = (4, 8)
# Shares of stories that begin with boxes, of sentences that name the person again, and of stories
# that end in a sum of two people.
WITH_BOXES, NAMED, TOGETHER = 0.5, 0.3, 0.2


def draw_multi_step(rng: Random, *, held_out: bool, steps: tuple[int, int] = STEPS) -> Problem:
    """Draw a problem of the training or (`held_out`) the test split.

    `steps` is the smallest and the largest number of calculations.
    """
    while True:
        problem = _Story(rng).tell(rng.randint(*steps))
        if is_held_out(problem.question) == held_out:
            return problem


class _Story:
    """One problem in the making: what was told, and what the last person now has."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.thing, self.other_thing = rng.sample(THINGS, 2)
        self.people = rng.sample(sorted(PEOPLE), len(PEOPLE))
        self.person = self.people.pop()
        self.must_name = False  # a pronoun would mean somebody else
        self.value = 0
        self.days = 0
        self.sentences: list[str] = []
        self.reasons: list[str] = []
        self.calculations: list[Calculation] = []

    def tell(self, steps: int) -> Problem:
        distraction = self.rng.randint(0, steps)
        together = self.rng.random() < TOGETHER
        self._begin()
        asked = None
        while (left := steps - len(self.calculations)) > 0:
            to_add_up = left == 1 and together
            if distraction >= left or (distraction >= 0 and to_add_up):
                self._distract()
                distraction = -1
            if to_add_up and self._add_up():
                asked = "do they have together"
            else:
                self.rng.choice(self._events(left))()
        if distraction >= 0:
            self._distract()
        asked = asked or f"does {self.person} have"
        question = " ".join([*self.sentences, f"How many {self.thing} {asked} in the end?"])
        answer = " ".join(self.reasons) + f"\n#### {self.value}"
        return Problem(question, answer, tuple(self.calculations))

    def _events(self, left: int) -> list[Callable[[], None]]:
        events = [self._gain, self._gain, self._lose, self._lose, self._double, self._compare]
        return [*events, self._gain_boxes, self._lose_boxes] if left > 1 else events

    def _begin(self) -> None:
        if self.rng.random() < WITH_BOXES:
            product = draw_product(self.rng)
            self.sentences.append(f"{self.person} has {self._boxes(product, self.thing)}.")
            self.reasons.append(f"{self.person} has {product} {self.thing}.")
            self._becomes(product)
        else:
            self.value = self.rng.randint(SMALLEST, LARGEST)
            self.sentences.append(f"{self.person} has {self.value} {self.thing}.")
            self.reasons += self.sentences

    def _gain(self) -> None:
        if calculation := draw_sum(self.rng, self.value):
            verb, more = self.rng.choice(GAINS), self.rng.choice(("", " more"))
            self._tell(f"{self._subject()} {verb} {calculation.right}{more} {self.thing}")
            self._reckon(calculation, f"{verb} {calculation.right} {self.thing}")

    def _lose(self) -> None:
        if calculation := draw_difference(self.rng, self.value):
            verb, of = self.rng.choice(LOSSES), self.rng.choice(("", f" of {self._possessive}"))
            self._tell(f"{self._subject()} {verb} {calculation.right}{of} {self.thing}")
            self._reckon(calculation, f"{verb} {calculation.right} {self.thing}")

    def _double(self) -> None:
        if calculation := draw_double(self.value):
            self._tell(f"{self._subject()} doubles {self._possessive} {self.thing}")
            self._reckon(calculation, f"doubles {self.thing}")

    def _gain_boxes(self) -> None:
        product = draw_product(self.rng)
        total = Calculation(self.value, "+", product.result)
        if total.result <= LARGEST:
            self._move_boxes(product, total, GAINS)

    def _lose_boxes(self) -> None:
        product = draw_product(self.rng)
        rest = Calculation(self.value, "-", product.result)
        if rest.result >= SMALLEST:
            self._move_boxes(product, rest, LOSSES)

    def _move_boxes(self, product: Calculation, after: Calculation, verbs: tuple[str, ...]) -> None:
        verb, boxes = self.rng.choice(verbs), self._boxes(product, self.thing)
        self._tell(f"{self._subject()} {verb} {boxes}")
        self.calculations.append(product)
        self._reckon(after, f"{verb} {boxes}, {product}")

    def _compare(self) -> None:
        more = self.rng.random() < 0.5
        draw = draw_sum if more else draw_difference
        if calculation := draw(self.rng, self.value):
            other, word = self.people.pop(), "more" if more else "fewer"
            order = self.rng.choice((f"{word} {self.thing}", f"{self.thing} {word}"))
            self._tell(f"{other} has {calculation.right} {order} than {self.person}")
            self.person, self.must_name = other, False
            self._reckon(calculation, f"{other} has {calculation.right} {order}")

    def _add_up(self) -> bool:
        calculation = draw_sum(self.rng, self.value)
        if calculation is None:
            return False
        fact = f"{self.people.pop()} has {calculation.right} {self.thing}"
        self._tell(fact)
        self._reckon(calculation, fact)
        return True

    def _distract(self) -> None:
        """Tell of a day on which something happens to the other thing."""
        single = f"{self.rng.randint(SMALLEST, LARGEST)} {self.other_thing}"
        boxes = self._boxes(draw_product(self.rng), self.other_thing)
        is_of_another = self.rng.random() < 0.5
        subject = self.people.pop() if is_of_another else self._subject()
        self.must_name = is_of_another
        happened = f"{self.rng.choice(('has', *GAINS, *LOSSES))} {self.rng.choice((single, boxes))}"
        self._tell(f"{subject} {happened}")
        self.reasons.append(f"{self._day} {happened}, has {self.value}.")

    def _boxes(self, product: Calculation, thing: str) -> str:
        return f"{product.left} {self.rng.choice(CONTAINERS)} with {product.right} {thing} each"

    def _subject(self) -> str:
        named = self.must_name or self.rng.random() < NAMED
        self.must_name = False
        return self.person if named else self._pronoun

    @property
    def _pronoun(self) -> str:
        return PEOPLE[self.person][0].lower()

    @property
    def _possessive(self) -> str:
        return PEOPLE[self.person][1]

    @property
    def _day(self) -> str:
        return f"Day {self.days}:"

    def _tell(self, fact: str) -> None:
        self.days += 1
        self.sentences.append(f"{self._day} {fact}.")

    def _reckon(self, calculation: Calculation, happened: str) -> None:
        self.reasons.append(f"{self._day} {happened}, {calculation}.")
        self._becomes(calculation)

    def _becomes(self, calculation: Calculation) -> None:
        self.calculations.append(calculation)
        self.value = calculation.result
