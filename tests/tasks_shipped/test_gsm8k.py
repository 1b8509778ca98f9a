"""gsm8k: the number in the last box is the score, whatever stands in and around it."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import lm_eval.tasks
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.metrics import exact_match_fn
from lm_eval.filters.extraction import RegexFilter

from fastdllm.common.errors import UserError
from tasks import gsm8k
from tasks.minerva_math.answers import DIFFERENT, EQUAL, by_text, compared
from tests.support.shipped_tasks import DATA, ROOT, Item, Outcome, needs_data, outcome

# What answers end with, the right number, whether they are right, and why that could be disputed.
FORMS = [
    (r"\boxed{18}", "18", True, ""),
    (r"\boxed{18}.", "18", True, ""),
    (r"$\boxed{18}$.", "18", True, "lm-eval finds '$.'"),
    (r"\[ \boxed{18} \]", "18", True, ""),
    (r"$$\boxed{18}$$", "18", True, ""),
    (r"**\boxed{18}**", "18", True, ""),
    (r"\boxed{ 18 }", "18", True, ""),
    (r"\boxed {18}", "18", True, "TeX allows the space"),
    (r"\boxed 18", "18", True, "TeX boxes the 1, but the 18 is meant"),
    (r"\\boxed{18}", "18", True, "doubled as in program text"),
    (r"\boxed{18}, in the \boxed format", "18", True, "no box, but talk of it"),
    (r"\fbox{18}", "18", True, "the text form of the same"),
    (r"\boxed{{18}}", "18", True, "the braces of the instruction, which is as published"),
    (r"\boxed{\boxed{18}}", "18", True, ""),
    (r"\boxed{$18$}", "18", True, ""),
    (r"\boxed{18.00}", "18", True, "the same number"),
    (r"\boxed{18.}", "18", True, ""),
    (r"\boxed{+18}", "18", True, ""),
    (r"\boxed{\$18}", "18", True, ""),
    (r"\boxed{\$18.00}", "18", True, ""),
    (r"\boxed{18\$}", "18", True, ""),
    (r"\boxed{€18}", "18", True, ""),
    (r"\boxed{Rs.18}", "18", True, "no fraction of 1"),
    (r"\boxed{\text{\$}18}", "18", True, ""),
    (r"\boxed{\$18 \text{ or } \$18.00}", "18", True, "the same number twice"),
    (r"\boxed{\text{She makes a profit of } \$18}", "18", True, ""),
    (r"\boxed{18/\text{day}}", "18", True, "a rate"),
    (r"\boxed{18\text{ dollars}}", "18", True, "the unit is the question's"),
    (r"\boxed{18 dollars}", "18", True, ""),
    (r"\boxed{18 \, \text{km/h}}", "18", True, ""),
    (r"\boxed{18 \, \frac{\text{km}}{\text{h}}}", "18", True, ""),
    (r"\boxed{18\hspace{1mm}\text{km}}", "18", True, ""),
    (r"\boxed{2.\overline{6}}", "2.7", False, "no rounding"),
    (r"\boxed{18\text{ cm}^2}", "18", True, "the exponent is the unit's"),
    (r"\boxed{18~\mathrm{m}^{3}}", "18", True, ""),
    (r"\boxed{18^\circ}", "18", True, ""),
    (r"\boxed{18^{\text{th}}}", "18", True, ""),
    (r"\boxed{18\%}", "18", True, "questions for a percentage have it as the number"),
    (r"\boxed{18 \%}", "18", True, "math-verify does not read it"),
    (r"\boxed{\text{18}}", "18", True, ""),
    (r"\boxed{\text{Janet makes \$18 a day}}", "18", True, "one number, in words"),
    (r"\boxed{\textbf{18}}", "18", True, ""),
    (r"\boxed{\mathbf{18}}", "18", True, ""),
    (r"\boxed{\color{red}{18}}", "18", True, ""),
    (r"\boxed{\left(18\right)}", "18", True, ""),
    (r"\boxed{x = 18}", "18", True, ""),
    (r"\boxed{9 \times 2 = 18}", "18", True, "the number behind the last ="),
    (r"\boxed{\approx 18}", "18", True, ""),
    (r"\boxed{18 \text{ eggs of 2 ducks}}", "18", True, "numbers in words count only alone"),
    (r"\boxed{\frac{36}{2}}", "18", True, "the same number, if not reduced"),
    (r"\boxed{36/2}", "18", True, "the same"),
    (r"\boxed{\dfrac{5}{2}}", "2.5", True, ""),
    (r"\boxed{2\frac{1}{2}}", "2.5", True, "a mixed number"),
    (r"\boxed{2 1/2}", "2.5", True, "the same in text"),
    (r"\boxed{1.8 \times 10^{3}}", "1800", True, "scientific"),
    (r"\boxed{1.8e3}", "1800", True, ""),
    (r"\boxed{10^3}", "1000", True, ""),
    (r"\boxed{1,234}", "1234", True, ""),
    (r"\boxed{1{,}234}", "1234", True, ""),
    (r"\boxed{1,\!234}", "1234", True, ""),
    (r"\boxed{1\,234}", "1234", True, "a thin space; math-verify reads 235"),
    ("\\boxed{1\u202f234}", "1234", True, ""),
    (r"\boxed{1 234}", "1234", True, ""),
    (r"\boxed{1,234,567.50}", "1234567.5", True, ""),
    (r"\boxed{-18}", "-18", True, ""),
    ("\\boxed{\u221218}", "-18", True, "the sign of typesetting"),
    (r"\boxed{-\$18}", "-18", True, ""),
    (r"\boxed{2 \text{ million}}", "2000000", True, "the words multiply"),
    (r"\boxed{\$70k}", "70000", True, "the same"),
    (r"\boxed{70 km}", "70000", False, "a unit"),
    (r"\boxed{2 \text{ million}}", "2", True, "where the question asks for millions"),
    (r"\boxed{6:00 \text{ PM}}", "6", True, "a full hour"),
    (r"\boxed{6 p.m.}", "6", True, ""),
    (r"\boxed{6:30}", "6", False, "half past"),
    (r"\boxed{18}. She sells 9 eggs at $2.", "18", True, "what follows the box says no more"),
    ("\\boxed{18}\n\nQuestion: What is 2 + 3?\nAnswer: 5", "18", True, "another question follows"),
    (r"First \boxed{3}, no: \boxed{18}", "18", True, "the last box is the answer"),
    (r"First \boxed{18}, no: \boxed{3}", "18", False, "the last box is the answer"),
    (r"\boxed{18}, as asked within \boxed{{}}", "18", True, "an empty box is none"),
    (r"\boxed{18} and then \boxed{", "18", True, "a box without an end is none"),
    (r"\boxed{18", "18", False, "cut, so that digits may lack"),
    ("The answer is 18.", "18", False, "no box, as it was asked for; flexible-extract takes it"),
    ("#### 18", "18", False, "the same; lm-eval's strict-match takes it"),
    ("", "18", False, ""),
    (r"\boxed{}", "18", False, ""),
    (rf"\boxed{{{'7' * 9000}}}", "7", False, "a digit repeated without end"),
    (r"\boxed{\frac{}{2}}", "2", False, "half a fraction"),
    (r"\boxed{\text{eighteen}}", "18", False, "a number word: it asks for trouble to read these"),
    (r"\boxed{9 \times 2}", "18", False, "a computation, not its result"),
    (r"\boxed{20 - 2}", "18", False, "the same"),
    (r"\boxed{18 \text{ or } 20}", "18", False, "two numbers"),
    (r"\boxed{18, 20}", "18", False, "two numbers"),
    (r"\boxed{a = 20, b = 18}", "18", False, "two numbers"),
    (r"\boxed{a = 20 \text{ and } b = 18}", "18", False, "two numbers"),
    (r"\boxed{10-18}", "18", False, "a range"),
    (r"\boxed{5 \text{ dollars and } 18 \text{ cents}}", "18", False, "two numbers"),
    (r"\boxed{18 \pm 2}", "18", False, "two numbers"),
    (r"\boxed{-18}", "18", False, ""),
    (r"\boxed{1.8}", "18", False, ""),
    (r"\boxed{180}", "18", False, ""),
    (r"\boxed{18.5}", "18", False, "no rounding"),
    (r"\boxed{17.99}", "18", False, "no rounding"),
    (r"\boxed{18\frac{1}{2}}", "18", False, ""),
    (r"\boxed{\frac{18}{5}}", "18", False, ""),
    (r"\boxed{\frac{18}{0}}", "18", False, ""),
    (r"\boxed{\sqrt{18}}", "18", False, ""),
    (r"\boxed{18\pi}", "18", False, ""),
    (r"\boxed{18x}", "18", False, "a variable, and no unit"),
    (r"\boxed{x^{18}}", "18", False, ""),
    (r"\boxed{18^2}", "18", False, ""),
    (r"\boxed{> 18}", "18", False, ""),
    (r"\boxed{1.234}", "1234", False, "a point is decimal, as in the data"),
    (r"\boxed{1,23}", "123", False, "neither thousands nor a decimal point"),
    (r"\boxed{0.18}", "18", False, "a share where the number of percent is asked for"),
]


def scores(text: str, gold: str) -> dict[str, float]:
    """Score one answer by the filters of the task's file, as lm-eval does."""
    doc = {"question": "?", "answer": f"So it is.\n#### {gold}"}
    (read,) = gsm8k.read_boxes([[text]], [doc])
    (extracted,) = flexible_extract().apply([[text]], [doc])
    flexible = gsm8k.score(doc, extracted)["exact_match"]
    return {**gsm8k.score(doc, read), "flexible": flexible}


@cache
def flexible_extract() -> RegexFilter:
    """Return the second filter of the task's file."""
    config = yaml.load((ROOT / "tasks/gsm8k.yaml").read_text(), Loader=Plain)
    (regex, _) = config["filter_list"][1]["filter"]
    assert regex.pop("function") == "regex"
    return RegexFilter(**regex)


class Plain(yaml.SafeLoader):
    """Reads `!function name` as the name."""


Plain.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


@pytest.mark.parametrize(("text", "gold", "is_right", "why"), FORMS)
def test_the_number_in_the_last_box_decides(
    text: str, gold: str, *, is_right: bool, why: str
) -> None:
    score = scores(f"9 eggs at 2 dollars cost 18 dollars. {text}", gold)["exact_match"]
    assert score == is_right, why


def test_the_share_of_answers_with_a_box_counts_those_that_hold_something() -> None:
    boxed = {text for text, gold, *_ in FORMS if scores(text, gold)["boxed"]}
    without = {text for text, *_ in FORMS} - boxed
    assert without == {r"\boxed{18", "The answer is 18.", "#### 18", "", r"\boxed{}"}


def test_flexible_extract_is_that_of_lm_eval() -> None:
    file = Path(lm_eval.tasks.__file__).parent / "gsm8k/gsm8k.yaml"
    stock = yaml.safe_load(file.read_text())
    (metric,) = stock["metric_list"]
    options = {k: v for k, v in metric.items() if k.startswith(("ignore", "regexes"))}
    by_name = {entry["name"]: entry["filter"] for entry in stock["filter_list"]}
    regex = {k: v for k, v in by_name["flexible-extract"][0].items() if k != "function"}
    of_lm_eval, ours = [], []
    for text, gold, *_ in FORMS:
        ((extracted,),) = RegexFilter(**regex).apply([[text]], [{}])
        reference = f"So it is.\n#### {gold}"
        score = exact_match_fn(predictions=[extracted], references=[reference], **options)
        of_lm_eval.append(score["exact_match"])
        ours.append(scores(text, gold)["flexible"])
    assert ours == of_lm_eval
    assert 0 < sum(ours) < len(ours)


# Ways to write thousands, currencies, what follows a number, and what is around it.
SEPARATORS = ["", ",", "{,}", r",\!", r"\,", " ", r"\ ", "\u202f", "~"]
CURRENCIES = ["", r"\$", "$", "€"]
UNITS = ["", ".", ".00", " dollars", r"\text{ dollars}", r"\%", r"^\circ", r"\text{ cm}^2", " km/h"]
AROUND = [
    "#",
    "{#}",
    r"\text{#}",
    r"\mathbf{#}",
    r"\left(#\right)",
    "x = #",
    r"9 \times 2 = #",
    "$#$",
]


@st.composite
def written(draw: st.DrawFn, number: int) -> str:
    """Write a number in the box of an answer."""
    separator, currency = draw(st.sampled_from(SEPARATORS)), draw(st.sampled_from(CURRENCIES))
    text = f"{abs(number):,}".replace(",", separator) + draw(st.sampled_from(UNITS))
    text = ("-" if number < 0 else "") + currency + text
    for around in draw(st.lists(st.sampled_from(AROUND), max_size=2)):
        text = around.replace("#", text)
    return draw(st.sampled_from(["", r"First \boxed{3}. ", "{"])) + f"\\boxed{{{text}}}"


@settings(max_examples=300, deadline=None)
@given(st.data(), st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_a_number_is_read_in_whatever_way_it_is_written(
    data: st.DataObject, right: int, wrong: int
) -> None:
    text = data.draw(written(right))
    assert scores(text, str(right))["exact_match"] == 1
    assert scores(text, str(wrong))["exact_match"] == (right == wrong)


PIECES = [*"{}$ 0123456789.,-+/^_%x=e()\n~\\", r"\boxed{", r"\frac", r"\text{", "}{", r"\times 10^"]


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_whatever_a_model_writes_can_be_scored(text: str) -> None:
    assert scores(f"\\boxed{{{text}", "18")["exact_match"] in (0, 1)
    assert by_text("18", text) == by_text(text, "18")
    assert by_text(*compared("18", text)) in (EQUAL, DIFFERENT, None)


def number(item: Item) -> str:
    return item.doc["answer"].partition("#### ")[2]


def chatty(item: Item) -> str:
    return f"It is $9 \\times 2$.\n\n$$\\boxed{{\\${number(item)}}}$$. She sells 9 eggs at $2."


def bare(item: Item) -> str:
    return f"\\boxed{{{number(item)}}}"


def silent(_: Item) -> str:
    return ""


@cache
def silence() -> Outcome:
    return outcome("gsm8k", DATA / "gsm8k", silent, limit=60)


def bare_or_chatty(item: Item) -> str:
    return (bare, chatty)[item.index % 2](item)


@pytest.mark.slow
@needs_data("gsm8k")
def test_who_is_always_right_has_all_points_and_who_is_silent_none() -> None:
    right = outcome("gsm8k", DATA / "gsm8k", bare_or_chatty, limit=60)
    for scored, score in ((right, 1.0), (silence(), 0.0)):
        assert scored.primary == "exact_match,last-box"
        assert scored.score == scored.metrics["boxed,last-box"] == score
        assert len(scored.samples) == 60


@pytest.mark.slow
@needs_data("gsm8k")
def test_prompts_are_those_of_the_published_scripts_character_for_character() -> None:
    (first, *_) = prompts = [(item["prompt"], item["target"]) for item in silence().samples]
    rows = [json.loads(line) for line in (DATA / "gsm8k/test.jsonl").open(encoding="utf-8")][:60]
    instruction = r"Please reason step by step, and put your final answer within \boxed{{}}."
    for (prompt, target), row in zip(prompts, rows, strict=True):
        asked = f"Question: {row['question']}\nAnswer:".replace("Answer:", instruction)
        assert re.findall(r"<\|im_start\|>user\n(.*?)<\|im_end\|>", prompt, re.DOTALL) == [asked]
        assert target == row["answer"]
    assert first[0].endswith("<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question": "2 + 2?", "answer": "It is 4."}, "'It is 4.' does not end with '#### <numb"),
        ({"question": "2 + 2?", "answer": ""}, "its answer '' does not end with"),
        ({"question": "2 + 2?", "answer": "#### four"}, "does not end with '#### <number>'"),
        ({"question": "2 + 2?"}, "column 'answer'|its answer None"),
        ({"answer": "#### 4"}, "column 'question' is None"),
        ({"question": " ", "answer": "#### 4"}, "column 'question' is empty"),
    ],
)
def test_a_row_without_question_or_number_is_named(
    tmp_path: Path, row: dict[str, str], says: str
) -> None:
    good = {"question": "1 + 1?", "answer": "#### 2"}
    for line, rows in ((1, [row, good]), (2, [good, row])):
        (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        where = rf"test\.jsonl, line {line}: task 'gsm8k', item {line - 1}: .*({says})"
        with pytest.raises(UserError, match=where):
            outcome("gsm8k", tmp_path, silent)
