"""The longer problems: a reader who ignores what does not matter finds the answer's number."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from transformers import AutoTokenizer

from training.multi_step import STEPS, draw_multi_step
from training.problems import GAINS, THINGS, Problem

ROOT = Path(__file__).parents[2]
ASKED = re.compile(r"How many (\w+) do(es)? \w+ have (together )?in the end\?")
FACT = re.compile(
    r"(?:Day (?P<day>\d): )?\w+ (?P<verb>\w+)(?: away)? (?:(?P<boxes>\d) \w+ with )?(?P<n>\d+) "
    r"(?:of \w+ )?(?P<before>more |fewer )?(?P<thing>\w+)(?: each)?(?P<after> more| fewer)?"
    r"(?P<than> than \w+)?\."
)


def sentences(text: str) -> list[str]:
    return re.findall(r"[^.?\n]+[.?]", text.replace(". ", ".").replace("? ", "?"))


def problems(count: int) -> Iterator[Problem]:
    rng = Random(21)
    return (draw_multi_step(rng, held_out=False) for _ in range(count))


def solve(question: str) -> int:
    """Read a question by itself, without the generator."""
    *facts, request = sentences(question)
    asked = ASKED.fullmatch(request)
    assert asked, request
    value, last = None, 0
    for day, fact in enumerate(facts):
        if "doubles" in fact:
            assert value is not None
            value *= 2
            continue
        found = FACT.fullmatch(fact)
        assert found, fact
        assert found["day"] == (str(day) if day else None)
        if found["thing"] != asked[1]:
            continue
        n = int(found["n"]) * int(found["boxes"] or 1)
        word = (found["before"] or found["after"] or "").strip()
        if value is None:
            value = n
        elif found["than"]:
            value += n if word == "more" else -n
        elif found["verb"] == "has":
            last = n  # the other one of a sum
        else:
            value += n if found["verb"] in GAINS else -n
    assert value is not None
    assert bool(last) == bool(asked[3])
    return value + last


def test_a_reader_finds_the_number_of_the_answer():
    for problem in problems(1000):
        assert solve(problem.question) == problem.result, problem
        assert problem.answer.endswith(f"\n#### {problem.result}")


def test_every_calculation_is_right_and_within_two_digits():
    seen = set()
    for problem in problems(500):
        written = re.findall(r"\d+[-+*]\d+=\d+", problem.answer)
        assert written == [str(calculation) for calculation in problem.calculations]
        assert all(eval(text.replace("=", "==")) for text in written), problem
        assert all(10 <= calculation.result <= 99 for calculation in problem.calculations)
        seen.add(len(written))
    assert seen == set(range(STEPS[0], STEPS[1] + 1))


def test_an_answer_says_of_each_day_what_happened_and_that_nothing_of_no_matter_counts():
    for problem in problems(500):
        *facts, request = sentences(problem.question)
        told = sentences(problem.answer)
        assert len(told) == len(facts)
        for fact, line in zip(facts[1:], told[1:], strict=True):
            day, *numbers = re.findall(r"\d+", fact)
            happened = line.partition(f"Day {day}: ")[2].partition(",")[0]
            assert re.findall(r"\d+", happened) == numbers
            assert [t for t in THINGS if t in happened] == [t for t in THINGS if t in fact]
        thing = ASKED.fullmatch(request)[1]
        (useless,) = [day for day, fact in enumerate(facts) if f" {thing}" not in fact]
        (before,) = re.findall(rf"(\d+)(?: {thing})?\.", told[useless - 1])
        assert told[useless].endswith(f", has {before}."), problem
        assert sum(f" {name}" in problem.question for name in THINGS) == 2


@pytest.mark.parametrize("name", ["multi_step_problems", "multi_step_problems_tune"])
def test_answers_take_several_blocks_and_have_room_in_the_limit_of_the_task(name):
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models/tiny")
    lines = (ROOT / f"tasks/data/{name}.jsonl").read_text(encoding="utf-8").splitlines()
    lengths = [len(tokenizer.encode(json.loads(line)["answer"])) + 1 for line in lines]
    assert len(lengths) == 1000
    assert min(lengths) > 64 and max(lengths) < 240, (min(lengths), max(lengths))
    assert 140 < sum(lengths) / len(lengths) < 160
