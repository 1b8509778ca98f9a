"""The longer problems: a reader who ignores what does not matter finds the answer's number."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from transformers import AutoTokenizer

from training.multi_step import FEWEST_STEPS, MOST_STEPS, draw_multi_step
from training.problems import GAINS, THINGS, Problem

ROOT = Path(__file__).parents[2]
ASKED = re.compile(r"How many (\w+) do(es)? \w+ have (together )?in the end\?")
BOXES = r"(?:(?P<boxes>\d+) (?:boxes|bags|packs|jars) with )?"
FACT = re.compile(
    rf"(?P<who>\w+) (?P<verb>\w+)(?: away)? {BOXES}(?P<n>\d+) (?:of \w+ )?"
    r"(?P<before>more |fewer )?(?P<thing>\w+)(?: each)?(?P<after> more| fewer)?"
    r"(?P<than> than \w+)?\."
)


def sentences(text: str) -> list[str]:
    return re.findall(r"[^.?]+[.?]", text.replace(". ", ".").replace("? ", "?"))


def problems(count: int) -> Iterator[Problem]:
    rng = Random(21)
    return (draw_multi_step(rng, held_out=False) for _ in range(count))


def solve(question: str) -> int:
    """Read a question by itself, without the generator."""
    *facts, request = sentences(question)
    asked = ASKED.fullmatch(request)
    assert asked, request
    value, last = None, 0
    for fact in facts:
        if "doubles" in fact:
            assert value is not None
            value *= 2
            continue
        found = FACT.fullmatch(fact)
        assert found, fact
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
    assert seen == set(range(FEWEST_STEPS, MOST_STEPS + 1))


def test_one_sentence_is_of_no_use_and_the_answer_repeats_the_others_in_order():
    for problem in problems(500):
        *facts, _ = sentences(problem.question)
        told = sentences(problem.answer.partition("\n")[0])
        (useless,) = [fact for fact in facts if fact not in told]
        assert [fact for fact in told if "=" not in fact] == [f for f in facts if f != useless]
        assert len({thing for thing in THINGS if f" {thing}" in problem.question}) == 2


@pytest.mark.parametrize("name", ["multi_step_problems", "multi_step_problems_tune"])
def test_answers_take_several_blocks_and_fit_the_limit_of_the_task(name):
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models/tiny")
    lines = (ROOT / f"tasks/data/{name}.jsonl").read_text(encoding="utf-8").splitlines()
    lengths = [len(tokenizer.encode(json.loads(line)["answer"])) + 1 for line in lines]
    assert len(lengths) == 1000
    assert min(lengths) > 64 and max(lengths) < 256, (min(lengths), max(lengths))
    assert 96 < sum(lengths) / len(lengths) < 200
