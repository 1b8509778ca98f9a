"""The generator: the same text for the same seed, right answers, and two splits that never meet."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random

import pytest

from training.choices import OPTIONS, draw_choice, slips
from training.data import batches, encode_row
from training.make_tasks import choice_items, to_jsonl, word_items
from training.problems import Calculation, draw_problem, is_held_out
from training.tokenizer import build_tokenizer

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tasks" / "data"
CALCULATION = re.compile(r"(\d+)([-+*])(\d+)=(\d+)")
APPLY = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def test_same_seed_same_problems():
    first = [draw_problem(Random(7), held_out=False) for _ in range(2)]
    assert first[0] == first[1]
    assert draw_choice(Random(7), held_out=True) == draw_choice(Random(7), held_out=True)


def test_every_calculation_in_an_answer_is_right_and_chained():
    rng = Random(11)
    for _ in range(1000):
        problem = draw_problem(rng, held_out=False)
        calculations = CALCULATION.findall(problem.answer)
        assert 1 <= len(calculations) <= 3
        previous = None
        for left, operator, right, result in calculations:
            assert APPLY[operator](int(left), int(right)) == int(result), problem.answer
            assert 10 <= int(result) <= 99, problem.answer
            assert previous is None or previous in (left, right), problem.answer
            previous = result
        assert problem.answer.endswith(f"#### {previous}")
        assert problem.result == int(previous)


def test_numbers_of_the_first_sentences_appear_in_the_question():
    rng = Random(12)
    for _ in range(500):
        problem = draw_problem(rng, held_out=False)
        given = set(map(int, re.findall(r"\d+", problem.question))) | {2}
        known = given | {c.result for c in problem.calculations}
        for calculation in problem.calculations:
            assert {calculation.left, calculation.right} <= known, problem


def test_a_question_belongs_to_one_split():
    rng = Random(13)
    train = {draw_problem(rng, held_out=False).question for _ in range(3000)}
    test = {draw_problem(rng, held_out=True).question for _ in range(300)}
    assert not train & test
    assert not any(map(is_held_out, train))
    assert all(map(is_held_out, test))


@pytest.mark.parametrize("phase", ["autoregressive", "block_diffusion"])
def test_no_task_item_is_in_the_training_batches(phase):
    held_out = {item["question"] for item in [*word_items(), *choice_items()]}
    tokenizer = build_tokenizer()
    kinds = batches(
        tokenizer,
        seed=2,
        phase=phase,
        drills=0.0,
        one_block=phase == "block_diffusion",
    )
    questions = {
        line.partition("user\n")[2].partition("<|im_end|>")[0]
        for _ in range(60)
        for line in tokenizer.batch_decode(next(kinds).tokens)
    }
    assert len(questions) > 900
    assert not questions & held_out


def test_options_hold_the_right_number_once_and_three_slips():
    rng = Random(14)
    for _ in range(500):
        choice = draw_choice(rng, held_out=True)
        assert len(set(choice.options)) == OPTIONS
        assert all(len(option) == 2 for option in choice.options)
        left, operator, right, result = CALCULATION.findall(
            choice.begun + choice.options[choice.correct]
        )[-1]
        assert APPLY[operator](int(left), int(right)) == int(result)
        wrong = set(map(int, choice.options)) - {int(result)}
        assert wrong <= slips(Calculation(int(left), operator, int(right)))


def test_every_calculation_has_three_slips():
    for right in range(10, 100):
        assert len(slips(Calculation(right, "+", 0)) - {right}) >= 3


def test_a_row_ends_in_a_stop_and_padding():
    tokenizer = build_tokenizer()
    row = encode_row(tokenizer, "Tom has 12 pens.", "#### 12")
    assert len(row.ids) % 32 == 0
    assert tokenizer.eos_token_id in row.ids[row.answer_start :]


@pytest.mark.parametrize(
    ("name", "make"), [("word_problems", word_items), ("choice_problems", choice_items)]
)
def test_committed_task_files_are_what_the_generator_makes(name, make):
    committed = (DATA / f"{name}.jsonl").read_text(encoding="utf-8")
    assert committed == to_jsonl(make()), "run: python -m training.make_tasks"
    assert all(is_held_out(json.loads(line)["question"]) for line in committed.splitlines())
