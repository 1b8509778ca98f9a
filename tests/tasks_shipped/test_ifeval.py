"""IFEval is scored by lm-eval's checks, offline, and the same on every machine and in any order."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import langdetect
import pytest

from fastdllm.common.errors import UserError
from tests.support.ifeval_oracle import answer
from tests.support.shipped_tasks import DATA, ROOT, Item, needs_data, outcome

FILE = DATA / "ifeval/input_data.jsonl"
METRICS = {
    f"{level}_level_{kind}_acc,none" for level in ("prompt", "inst") for kind in ("strict", "loose")
}
# Their instructions contradict each other: the prompt that an answer shall repeat has a comma, or a
# word, that the answer shall not have.
CONTRADICTORY = {1627, 3718, 3369, 3371, 374}
# lm-eval draws another letter at random for # and !.
RANDOM_LETTER = {1122, 1129}


@pytest.fixture(scope="module")
def ifeval() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ifeval_helper", ROOT / "tasks/ifeval.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def a_row(name: str = "punctuation:no_comma", **kwargs: Any) -> dict[str, Any]:
    return {"key": 1, "prompt": "Say it.", "instruction_id_list": [name], "kwargs": [kwargs]}


def strict(ifeval: ModuleType, row: dict[str, Any], text: str) -> bool:
    return ifeval.process_results(row, [text])["prompt_level_strict_acc"]


def right(item: Item) -> str:
    return answer(item.doc)


# Every ninth prompt in the suite; all 541 by hand.
@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ifeval")
    lines = FILE.read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "input_data.jsonl").write_text("".join(lines[::9]), encoding="utf-8")
    return folder


@needs_data("ifeval")
@pytest.mark.slow
def test_what_follows_all_instructions_has_all_points(some: Path) -> None:
    scored = outcome("ifeval", some, right)
    possible = [
        s["item"] for s in scored.samples if rows()[9 * s["item"]]["key"] not in CONTRADICTORY
    ]
    assert scored.metrics.keys() == METRICS
    assert scored.primary == "prompt_level_strict_acc,none"
    assert {s["item"] for s in scored.samples if s["correct"]} == set(possible)
    assert len(possible) >= 59


@needs_data("ifeval")
@pytest.mark.slow
def test_silence_follows_nothing(some: Path) -> None:
    scored = outcome("ifeval", some, lambda _: "")
    assert scored.metrics == dict.fromkeys(METRICS, 0.0)


@needs_data("ifeval")
def test_only_contradictory_prompts_cannot_be_followed(ifeval: ModuleType) -> None:
    failed = {row["key"] for row in rows() if not strict(ifeval, row, answer(row))}
    assert failed == CONTRADICTORY
    for row in rows():
        if row["key"] in CONTRADICTORY:
            at = row["instruction_id_list"].index("combination:repeat_prompt")
            text = row["kwargs"][at]["prompt_to_repeat"]
            others = ifeval.process_results(row, [text])["inst_level_strict_acc"]
            assert others[at] and not all(others), row["key"]


@needs_data("ifeval")
def test_scores_are_those_of_lm_eval(ifeval: ModuleType) -> None:
    """Those that count no sentences, whose data of nltk is not there."""
    from lm_eval.tasks.ifeval import utils

    n_compared = 0
    for row in rows()[::3]:
        names = " ".join(row["instruction_id_list"])
        if row["key"] in RANDOM_LETTER or "sentences" in names or "capital_word" in names:
            continue
        right = answer(row)
        for text in (right, f"Sure!\n{right}\n*Done*", row["prompt"], "ok", ""):
            ours = ifeval.process_results(row, [text])
            assert ours == utils.process_results(row, [text]), (row["key"], text)
            n_compared += 1
    assert n_compared > 700


@needs_data("ifeval")
def test_scores_do_not_depend_on_order_or_random_state(ifeval: ModuleType) -> None:
    chosen = [
        row for row in rows()[::5] if {"language", "letter"} & {k for a in row["kwargs"] for k in a}
    ]
    texts = ["so", "hr hr so", "ein Haus is a casa", "die Tür! # ! ok"]

    def scores(order: list[int], seed: int) -> dict[tuple[int, str], Any]:
        random.seed(seed)
        langdetect.DetectorFactory.seed = None
        return {(i, t): ifeval.process_results(chosen[i], [t]) for i in order for t in texts}

    order = list(range(len(chosen)))
    assert scores(order, 1) == scores(order[::-1], 2)


@pytest.mark.parametrize("letter", ["#", "!"])
def test_a_letter_that_is_none_is_counted_as_it_is(ifeval: ModuleType, letter: str) -> None:
    row = a_row(
        "keywords:letter_frequency", letter=letter, let_frequency=3, let_relation="at least"
    )
    assert strict(ifeval, row, f"Wow{letter * 3}")
    assert not strict(ifeval, row, f"Wow{letter * 2} and aaa bbb ccc")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("One.", 1),
        ("no period at the end", 1),
        ("One. Two! Three? Four.", 4),
        ("Mr. Smith met Dr. Jones. They spoke.", 2),
        ("He lives in the U.S. with his dog.", 1),
        ("He left the U.S. He was sad.", 2),
        ("She came at 5 p.m. on Monday.", 1),
        ("It was 5 p.m. She came.", 1),
        ("It was 5 p.m. The bell rang.", 2),
        ("Use fruit, e.g. apples.", 2),
        ("Apples, pears, etc. are fruit.", 2),
        ("J. S. Bach wrote it.", 1),
        ("J. K. Rowling wrote it. I read it.", 2),
        ("It is vitamin B. The body needs it.", 2),
        ("Wait... what?", 1),
        ("Wait... But why?", 2),
        ("Wait... Zork?", 1),
        ("It costs 3.50 dollars. I paid 4.", 2),
        ("1. Wash it\n2. Dry it", 3),
        ('"Stop!" he said.', 2),
        ('He said "Stop." Then he left.', 2),
        ("It (the dog. Yes.) barked.", 3),
        ("One.Two", 1),
        ("First line\nsecond line", 1),
        ("Really?! Yes.", 2),
        ("See example.com. It works.", 2),
        ("Born Jan. 5 in Fla. near Miami.", 1),
        ("你好。再见。", 1),
    ],
)
def test_sentences_are_those_of_punkt(ifeval: ModuleType, text: str, expected: int) -> None:
    """As the English model of nltk's punkt_tab counts them."""
    assert len(ifeval.sentences(text)) == expected


@pytest.mark.parametrize(
    "text", ["", " \n", "[" * 3000, '{"a":' * 3000, "\x00", "😀" * 500, "9" * 5000]
)
def test_an_odd_answer_is_wrong_and_stops_nothing(ifeval: ModuleType, text: str) -> None:
    assert not strict(ifeval, a_row("detectable_format:json_format"), text) or text.isdigit()


@pytest.mark.slow
def test_data_of_nltk_on_this_machine_changes_nothing(tmp_path: Path) -> None:
    """In a process that may not use the network, and finds a model by which a dog ends nothing."""
    model = tmp_path / "tokenizers/punkt_tab/english"
    model.mkdir(parents=True)
    for name in ("collocations.tab", "sent_starters.txt", "ortho_context.tab"):
        (model / name).touch()
    (model / "abbrev_types.txt").write_text("dog\n")
    program = """
import sys
from fastdllm.tools.fetching.proof import refuse_network
sys.addaudithook(refuse_network)
sys.path.insert(0, "tasks")
import ifeval
from nltk import sent_tokenize
print([len(split("I saw a dog. It barked.")) for split in (ifeval.sentences, sent_tokenize)])
"""
    counted = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "NLTK_DATA": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert counted.stdout == "[2, 1]\n"


BROKEN: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda row: row.pop("prompt"), "column 'prompt' is missing or empty"),
    (lambda row: row.update(instruction_id_list=[]), "'instruction_id_list' is missing or empty"),
    (lambda row: row.update(instruction_id_list=["no:comma"]), "unknown instruction 'no:comma'"),
    (lambda row: row.update(instruction_id_list="punctuation:no_comma"), "a list of names"),
    (lambda row: row.update(instruction_id_list=[["punctuation:no_comma"]]), "a list of names"),
    (lambda row: row.update(prompt=5), "prompt should be a text"),
    (lambda row: row.update(kwargs="{}"), "kwargs should be a list"),
    (lambda row: row.update(kwargs=["num_words"]), "kwargs should be a list"),
    (lambda row: row["kwargs"].append({}), "1 instructions, but kwargs for 2"),
    (lambda row: row["kwargs"][0].update(num_words=3), "num_words; they should be none"),
]


@pytest.mark.parametrize(("change", "says"), BROKEN)
def test_a_malformed_row_is_refused(
    ifeval: ModuleType, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    row = a_row()
    change(row)
    with pytest.raises(ValueError, match=re.escape(says)):
        ifeval.question(row)


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 2])
def test_a_malformed_row_is_named_before_anything_is_decoded(tmp_path: Path, index: int) -> None:
    written = [a_row() | {"key": n, "prompt": f"Say {n}."} for n in range(4)]
    written[index]["instruction_id_list"] = ["no:comma"]
    lines = "".join(json.dumps(row) + "\n" for row in written)
    (tmp_path / "input_data.jsonl").write_text(lines)
    with pytest.raises(UserError) as raised:
        outcome("ifeval", tmp_path, right)
    assert f"input_data.jsonl, line {index + 1}: task 'ifeval', item {index}" in str(raised.value)
    assert "unknown instruction 'no:comma'" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        (
            "keywords:letter_frequency",
            {"letter": "ab", "let_frequency": 1, "let_relation": "at least"},
        ),
        ("keywords:letter_frequency", {"letter": "a", "let_frequency": 1, "let_relation": "more"}),
        ("keywords:existence", {"keywords": []}),
        ("keywords:existence", {"keywords": "song"}),
        ("keywords:existence", {"keywords": ["c++("]}),
        ("length_constraints:number_words", {"num_words": "9", "relation": "at least"}),
        ("length_constraints:number_words", {"num_words": -1, "relation": "at least"}),
        ("length_constraints:number_words", {"num_words": 9}),
        ("language:response_language", {"language": "klingon"}),
        ("language:response_language", {"language": ["de"]}),
        ("combination:repeat_prompt", {"prompt_to_repeat": ""}),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"},
        ),
    ],
)
def test_arguments_that_lm_eval_would_replace_at_random_are_refused(
    ifeval: ModuleType, name: str, kwargs: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"kwargs of"):
        ifeval.question(a_row(name, **kwargs))


def test_a_row_of_the_hub_has_null_for_arguments_of_others(ifeval: ModuleType) -> None:
    row = a_row("detectable_format:number_bullet_lists", num_bullets=1, letter=None, keywords=None)
    assert ifeval.question(row) == "Say it."
    assert strict(ifeval, row, "* one")
