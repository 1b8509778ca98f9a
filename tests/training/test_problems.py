"""The generators: the same text for the same seed, right answers, and splits that never meet."""

from __future__ import annotations

import bz2
import json
import re
from pathlib import Path
from random import Random

import pytest

from training.choices import OPTIONS, draw_choice, slips
from training.data import batches, encode_row
from training.make_tasks import draw_sets, to_jsonl
from training.problems import Calculation, draw_problem, is_held_out
from training.tokenizer import build_tokenizer

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tasks" / "data"
CALCULATION = re.compile(r"(\d+)([-+*])(\d+)=(\d+)")
APPLY = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def committed(file_name: str) -> str:
    content = (DATA / file_name).read_bytes()
    return (bz2.decompress(content) if file_name.endswith(".bz2") else content).decode()


@pytest.fixture(scope="module")
def questions() -> dict[str, list[str]]:
    """The questions of every data file of the embedded tasks."""
    return {
        path.name: [json.loads(line)["question"] for line in committed(path.name).splitlines()]
        for path in DATA.glob("*.jsonl*")
    }


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


@pytest.mark.parametrize("multi_step", [0.0, 1.0])
def test_no_task_item_is_in_the_training_batches(questions, multi_step):
    tokenizer = build_tokenizer()
    drawn = batches(
        tokenizer, seed=2, phase="test", drills=0.0, multi_step=multi_step, one_block=True
    )
    trained = {
        line.partition("user\n")[2].partition("<|im_end|>")[0]
        for _ in range(60 if multi_step == 0 else 120)
        for line in tokenizer.batch_decode(next(drawn).tokens)
    }
    assert len(trained) > 900
    for held_out in questions.values():
        assert not trained & set(held_out)


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


def test_committed_files_are_what_the_generators_make():
    made = {items_of.file_name: items for items_of, items in draw_sets()}
    assert made.keys() == {path.name for path in DATA.glob("*.jsonl*")}
    for file_name, items in made.items():
        # Not `assert a == b`: pytest would compare megabytes line by line.
        same = committed(file_name) == to_jsonl(items)
        assert same, f"{file_name}: run: python -m training.make_tasks"


def test_no_question_is_asked_twice_and_all_are_held_out(questions):
    """Neither within a file nor in two; of these, none can be drawn for training."""
    counts = {name: len(asked) for name, asked in questions.items()}
    assert counts["word_problems_confirm.jsonl.bz2"] == 20_000
    asked = [question for of_file in questions.values() for question in of_file]
    assert len(set(asked)) == len(asked) == sum(counts.values()) >= 25_000
    assert all(map(is_held_out, asked))
