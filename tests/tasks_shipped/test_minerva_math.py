"""minerva_math: the last box has to equal that of the solution, in whatever form."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

import math_verify
import psutil
import pytest

from fastdllm.common.errors import UserError
from fastdllm.decoding.user_code import code_files
from tasks.boxed import last_box
from tasks.minerva_math import answers
from tasks.minerva_math.answers import by_text, compare_boxes
from tasks.minerva_math.equality import DIFFERENT, EQUAL, UNDECIDED, compare, verdicts
from tests.support.shipped_tasks import ROOT, Item, outcome

# Problems of our own, 20 for each subject: the box of a solution, others that are right, and some
# that are wrong.
PROBLEMS = [
    json.loads(line)
    for line in Path(__file__).with_name("math_problems.jsonl").read_text("utf-8").splitlines()
]
TOWER = "9^{9^{9^{9}}}"


def write_rows(folder: Path, of_subject: int = 20) -> Path:
    """Write the problems as the files of the task, in the columns of hendrycks_math."""
    for subject, problems in groupby(PROBLEMS, key=lambda problem: problem["subject"]):
        file = folder / "test" / f"{subject}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {
                "problem": problem["problem"],
                "level": f"Level {1 + i % 5}",
                "type": subject.replace("_", " ").title(),
                "solution": f"In two steps, of which the first gives $\\boxed{{{i} + 0.5}}$, we "
                f"find $\\boxed{{{problem['answer']}}}$.",
            }
            for i, problem in enumerate(problems)
        ]
        lines = [json.dumps(row) + "\n" for row in rows[:of_subject]]
        file.write_text("".join(lines), encoding="utf-8")
    return folder


def right(item: Item) -> str:
    """Answer as the solution does, with the box alone, or with much around it."""
    box = last_box(item.doc["solution"])
    return (
        item.doc["solution"],
        f"\\boxed{{{box}}}",
        f"First $\\boxed{{7}}$, no: **Answer:** $$\\boxed{{{box}}}$$. That is $\\frac{{7}}{{9}}$.",
    )[item.index % 3]


@pytest.mark.slow
def test_who_is_always_right_has_all_points_in_all_subjects(tmp_path: Path) -> None:
    write_rows(tmp_path)
    scored = outcome("minerva_math", tmp_path, right)
    assert scored.primary == "math_verify,last-box"
    assert scored.metrics == {
        "math_verify,last-box": 1.0,
        "boxed,last-box": 1.0,
        "undecided,last-box": 0.0,
    }
    assert scored.group_results is not None
    assert len(scored.group_results) == 7
    assert set(scored.group_results.values()) == {1.0}
    assert len(scored.samples) == 140
    asked = {s["prompt"]: s["target"] for s in scored.samples}
    instruction = r"Please reason step by step, and put your final answer within \boxed{{}}."
    for problem in PROBLEMS:
        of_lm_eval = "Problem:" + "\n" + problem["problem"] + "\n\n" + "Solution:"
        prompt = of_lm_eval.replace("Solution:", instruction)
        target = next(t for text, t in asked.items() if f"user\n{prompt}<|im_end|>" in text)
        assert last_box(target) == problem["answer"]


@pytest.mark.slow
def test_who_says_nothing_has_no_point_and_who_is_often_right_the_share(tmp_path: Path) -> None:
    write_rows(tmp_path, of_subject=4)
    scored = outcome("minerva_math", tmp_path, lambda _: "")
    assert set(scored.metrics.values()) == {0.0}
    scored = outcome(
        "minerva_math", tmp_path, lambda item: right(item) if item.index else "It is 3."
    )
    assert scored.metrics["math_verify,last-box"] == scored.metrics["boxed,last-box"] == 0.75


@pytest.mark.slow
def test_the_table_of_answers_is_judged_as_it_says() -> None:
    cases = [
        (problem["answer"], box, verdict)
        for problem in PROBLEMS
        for boxes, verdict in ((problem["right"], EQUAL), (problem["wrong"], DIFFERENT))
        for box in boxes
    ]
    docs = [{"solution": f"\\boxed{{{gold}}}"} for gold, *_ in cases]
    read = compare_boxes([[f"It is $\\boxed{{{box}}}$."] for _, box, _ in cases], docs)
    found = [of_item[0]["verdict"] for of_item in read]
    assert len(cases) > 350
    pairs = zip(cases, found, strict=True)
    assert [(*case, verdict) for case, verdict in pairs if verdict != case[2]] == []


@pytest.mark.parametrize(
    ("text", "box"),
    [
        (r"It is $\boxed{5}$ or $\boxed{\{1, 2\}}$.", r"\{1, 2\}"),
        (r"\boxed{\left\{ x : x > 1 \right.}", r"\left\{ x : x > 1 \right."),
        (r"$\boxed 2$ as above", "2"),
        (r"$\boxed\frac{1}{2}$", r"\frac{1}{2}"),
        (r"$\boxed a+b$", "a+b"),
        (r"$\boxed {\text{(A)}}$", r"\text{(A)}"),
        (r"&= 2 \\\boxed{3}", "3"),
        (r"{ an open brace \boxed{4}", "4"),
        (r"in the \boxed format, \boxed{} or \boxed{{}}", None),
        (r"\boxed{5", None),
        (r"\boxedword{5}", None),
    ],
)
def test_what_the_last_box_holds(text: str, box: str | None) -> None:
    assert last_box(text) == box


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        ("12", "12", EQUAL),
        (r"\dfrac{1}{2}", r"\frac12", EQUAL),
        ("[2,5)", r"\left[ 2, 5 \right)", EQUAL),
        ("1,234", r"1\,234", EQUAL),
        ("0.5", r"\frac{1}{2}", EQUAL),
        (r"25\%", "25", EQUAL),
        ("0.25", r"25\%", EQUAL),
        (r"25\%", r"2500\%", DIFFERENT),
        ("1010_2", "1010_{2}", EQUAL),
        ("1010_2", "1010", EQUAL),
        ("1010_2", "1010_3", DIFFERENT),
        (r"\text{June 20}", "June 20", EQUAL),
        (r"\text{A, C}", "C, A", EQUAL),
        (r"\text{A, C}", r"A \text{ and } B", None),
        (r"0.\overline{36}", r"\frac{4}{11}", EQUAL),
        (r"0.\overline{36}", "0.36", None),
        (r"10\%", r"10 \text{ percent}", EQUAL),
        ("12", "13", DIFFERENT),
        (r"\frac{1}{3}", r"\frac{1}{4}", DIFFERENT),
        # math-verify takes numbers for equal that are so to six digits.
        (r"\frac{1}{3}", "0.333333", None),
        ("x + 1", "x + 2", None),
        ("1,2", "2,1", None),
    ],
)
def test_what_texts_and_numbers_tell_alone(gold: str, answer: str, verdict: str | None) -> None:
    assert by_text(gold, answer) == verdict


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        ("3,5", "(5,3)", EQUAL),
        ("(5,3)", "3,5", DIFFERENT),
        ("8", r"8 \text{ thousand}", EQUAL),
        ("8", "8 cm^2", DIFFERENT),
        (r"\emptyset", r"\varnothing", DIFFERENT),
        ("-i", "i^3", DIFFERENT),
        ("[1,2)", r"1 \le x < 2", DIFFERENT),
    ],
)
def test_verdicts_of_math_verify_that_tasks_readme_names(
    gold: str, answer: str, verdict: str
) -> None:
    assert compare(*answers.compared(gold, answer)) == verdict
    if verdict == EQUAL:  # as lm-eval's own metric says
        assert math_verify.verify(
            *(math_verify.parse(rf"$\boxed{{{text}}}$") for text in (gold, answer))
        )


def test_all_code_that_scores_is_part_of_the_identity_of_runs() -> None:
    files = code_files(ROOT / "tasks/minerva_math/answers.py")
    names = {file.resolve().relative_to(ROOT).as_posix() for file in files}
    others = {"tasks/boxed.py", "tasks/minerva_math/equality.py"}
    assert names == {"tasks/minerva_math/answers.py", *others}


@pytest.mark.slow
def test_answers_that_need_too_long_are_undecided_and_hold_up_no_others() -> None:
    pairs = [("x+1", "1+x"), ("2", TOWER), ("x+1", "x+2"), ("2", TOWER), (r"\sqrt{4}", "2")]
    # In a thread, where math-verify alone raises.
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(verdicts, pairs, limit_s=1).result()
    assert found == [EQUAL, UNDECIDED, DIFFERENT, UNDECIDED, EQUAL]


def test_a_box_that_is_undecided_counts_as_wrong_and_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(answers, "verdicts", lambda pairs: [UNDECIDED] * len(pairs))
    doc = {"solution": r"\boxed{2}"}
    ((read,),) = answers.compare_boxes([[f"\\boxed{{{TOWER}}}"]], [doc])
    assert answers.score(doc, [read]) == {"math_verify": 0.0, "boxed": 1.0, "undecided": 1.0}
    says = r"^fastdllm: 1 boxes cannot be compared within 30 s .* count as wrong .* such as '9\^\{9"
    assert re.search(says, capsys.readouterr().err)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_is_killed_decides_nothing(number: signal.Signals) -> None:
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(verdicts([("x+1", "1+x"), ("2", TOWER)], limit_s=2))
        except RuntimeError as error:
            found.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    while not (children := compared_by(os.getpid())) and thread.is_alive():
        time.sleep(0.01)
    # Not so early that Python itself is not there yet.
    while children[0].cpu_times().user < 0.5:
        time.sleep(0.01)
    children[0].send_signal(number)
    thread.join()
    if number == signal.SIGTERM:
        assert found == [[EQUAL, UNDECIDED]], "SLURM sends it to all processes of a job"
    else:
        assert re.search(r"equality\.py failed with exit code -9 \(killed", found[0])


def compared_by(pid: int) -> list[psutil.Process]:
    children = psutil.Process(pid).children()
    return [child for child in children if "equality.py" in " ".join(child.cmdline())]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"problem": "1 + 1?", "solution": "It is 2."}, r"column 'solution' has no \\boxed{...}"),
        ({"problem": "1 + 1?", "solution": r"It is \boxed{}."}, r"column 'solution' has no \\box"),
        ({"problem": "1 + 1?"}, "column 'solution' has no"),
        ({"solution": r"\boxed{2}"}, "column 'problem' is None"),
        ({"problem": "", "solution": r"\boxed{2}"}, "column 'problem' is empty"),
    ],
)
def test_a_row_without_problem_or_box_is_named(
    tmp_path: Path, row: dict[str, str], says: str
) -> None:
    write_rows(tmp_path, of_subject=1)
    file = tmp_path / "test/geometry.jsonl"
    file.write_text(f"{file.read_text()}{json.dumps(row)}\n")
    where = r"test/geometry\.jsonl, line 2: task 'minerva_math_geometry', item 1"
    with pytest.raises(UserError, match=f"{where}: .*{says}"):
        outcome("minerva_math", tmp_path, right)
