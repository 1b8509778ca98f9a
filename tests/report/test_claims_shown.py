"""Claims stand at the head of the page and of a README, and what waits is not shown."""

from __future__ import annotations

import pytest

from fastdllm.records.claim_kinds import NonInferior
from fastdllm.records.claims_record import ClaimsRecord
from fastdllm.records.summary import Summary
from fastdllm.report.content import build_report
from fastdllm.report.page import render_page
from fastdllm.report.sentences import answer_of, headline
from fastdllm.statistics.claims import Evidence, results_of
from scripts.update_answers import with_answer
from tests.report.test_page import Page

EXPERIMENT = "04_lookahead"


@pytest.fixture(scope="module")
def record(words: list[Summary]) -> ClaimsRecord:
    """A claim that is confirmed, as look-ahead differs little from plain decoding."""
    claim = NonInferior(
        id="C1", kind="noninferior", config="d3_t0.95_s4", against="plain", margin=0.05
    )
    runs = {run.config: run for run in words}
    evidence = Evidence({"plain": runs["k1_first"], "d3_t0.95_s4": runs["d3_t0.95_s4"]})
    return ClaimsRecord(
        experiment=EXPERIMENT,
        digest="d",
        registered="0123456789abcdef",
        results=results_of([claim], lambda _: evidence, {}),
        made_from={},
    )


def test_claims_stand_before_what_is_exploratory(
    words: list[Summary], record: ClaimsRecord
) -> None:
    html = render_page(build_report(words, claims=[record]))
    text = Page(html).text
    claim = "d3_t0.95_s4 loses less than 5.00 points to plain"
    assert text.index(claim) < text.index("word_problems exploratory")
    assert "Claims registered in 0123456789" in text
    assert "confirmed (p < 0.001, 600 items" in text
    answer = answer_of(EXPERIMENT, words, [], [record])
    assert answer.index(f"- C1. {claim}: **confirmed (p") < answer.index("All that follows is expl")
    assert headline(EXPERIMENT, words, [], [record]) == f"{claim}: **confirmed**."
    assert "Claims" not in answer_of("00_baseline", words, [], [record])


def test_of_an_experiment_without_other_results_the_claims_are_shown(
    record: ClaimsRecord,
) -> None:
    waiting = record.model_copy(update={"waits": "3 of 6 configs done", "results": []})
    report = build_report([], claims=[waiting], withheld={"words": "3 of 6 configs done"})
    assert report.experiments == (EXPERIMENT,)
    text = Page(render_page(report)).text
    assert "words: 3 of 6 configs done" in text and "Claims of 04_lookahead" in text


def test_a_task_that_waits_is_nowhere_on_the_page(words: list[Summary]) -> None:
    text = render_page(build_report(words, withheld={"word_problems": "3 of 6 configs done"}))
    assert "word_problems: 3 of 6 configs done" in text
    assert "k1_first" not in Page(text).text


def test_an_answer_between_markers_keeps_its_claims(
    words: list[Summary], record: ClaimsRecord
) -> None:
    begin, end = "<!-- answer: begin (scripts/update_answers.py) -->\n", "<!-- answer: end -->"
    readme = f"# Title\n{begin}old{end}\n"
    assert "**Claims**" in with_answer(readme, answer_of(EXPERIMENT, words, [], [record]))
