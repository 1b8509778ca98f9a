"""The page: whole, self-contained, and saying what it must."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fastdllm.records.summary import Items, Summary, pack_bits, unpack_bits
from fastdllm.report.content import Report, build_report
from fastdllm.report.page import render_page
from tests.support import made_up_runs as synthetic

VOID = frozenset(["br", "hr", "img", "input", "link", "meta", "wbr"])


class Page(HTMLParser):
    """Checks the nesting of elements, and collects what a test asks for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.data = ""
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        if self.open[-1:] == ["script"]:
            if text.startswith("{"):
                self.data += text
        elif "style" not in self.open:
            self.words.append(text)
            if "td" in self.open or "th" in self.open:
                self.rows[-1][-1] += text

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return render_page(report)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_page_loads_nothing(page: Page) -> None:
    loading = [
        (tag, name, value)
        for tag, name, value in page.attributes
        if name in ("src", "srcset", "data", "poster") or (tag, name) == ("link", "href")
    ]
    assert loading == [("link", "href", "data:,")]
    policy = next(v for t, n, v in page.attributes if (t, n) == ("meta", "content") and "src" in v)
    assert policy.startswith("default-src 'none'")
    links = [v for t, n, v in page.attributes if (t, n) == ("a", "href")]
    assert links and all(link.startswith("#") and link[1:] in page.ids for link in links)
    assert len(page.ids) == len(set(page.ids))


def test_page_is_deterministic(report: Report, html: str) -> None:
    assert render_page(report) == html


def test_tables_hold_every_run_with_its_verdict(page: Page, report: Report) -> None:
    shown = [cells for cells in page.rows if cells and " / " in cells[0]]
    expected = [row.summary for task in report.tasks for row in task.runs]
    for cells, run in zip(shown, expected, strict=True):
        assert cells[0].startswith(f"{run.experiment} / {run.config}")
        assert any(f"{100 * run.accuracy:.1f}" in cell for cell in cells)
    verdict = next(cells for cells in shown if "k2_first" in cells[0])
    assert "dominated by its control (shown)" in verdict[1]
    assert verdict[1].strip().endswith("to sub16")
    assert "loss of 39.7 points" in verdict[5]


def test_every_table_has_a_caption_and_headings(html: str) -> None:
    body, _, _ = html.partition("<script")
    assert body.count("<table") == body.count("<caption") == body.count("<thead") == 4
    assert all("scope=" in cell for cell in re.findall(r"<th\b[^>]*>", body))


def test_sentences_name_baseline_controls_and_the_best(page: Page) -> None:
    assert "Baseline 00_baseline / k1_first : right on 95.3 %" in page.text
    assert "Of 40 computations, at equal layer-forwards: 18 above its control (shown)" in page.text
    assert "04_lookahead / d3_t0.95_s4 takes 0.810 (" in page.text
    assert "of the seconds at batch size 1, faster" in page.text
    assert "Fewest layer-forwards without a loss that was seen: 04_lookahead" in page.text


def test_repeated_computations_are_drawn_once(page: Page, runs: list[Summary]) -> None:
    points = json.loads(page.data)["tasks"]["word_problems"]["points"]
    decoded = [r for r in runs if r.task == "word_problems" and r.same_as is None]
    assert len(points) == len(decoded)
    plain = next(point for point in points if point["run"] == "00_baseline / k1_first")
    assert plain["same"] == "k1_middle, k1_last, 03_controls / t0.9"


def test_likelihood_task_says_that_nothing_was_decoded(page: Page) -> None:
    assert "58 configurations are 1 computation; equal figures are expected" in page.text


def test_only_what_was_timed_in_turn_is_drawn_by_seconds(page: Page) -> None:
    task = json.loads(page.data)["tasks"]["word_problems"]
    assert list(task["costs"]) == ["layer_forwards", "seconds_1", "seconds_32"]
    timed = {point["run"] for point in task["points"] if "seconds_1" in point}
    assert timed == {"00_baseline / k1_first", "04_lookahead / d3_t0.95_s4", "03_controls / t0.7"}
    best = next(p for p in task["points"] if p["run"] == "04_lookahead / d3_t0.95_s4")
    assert best["seconds_1_low"] < best["seconds_1"] < best["seconds_1_high"]
    assert best["standing"] == "above its control (shown)"
    assert "measured under other conditions" in page.text, "of tokens/s"


def test_flips_carry_question_answers_and_the_step(page: Page) -> None:
    flips = json.loads(page.data)["tasks"]["word_problems"]["flips"]
    pair = next(pair for pair in flips["pairs"] if pair["name"] == "00_baseline / k2_first")
    assert pair["why_not"] is None and 2 <= len(pair["shown"]) <= 24
    item, gained, after, step, token = pair["shown"][0]
    question, target, before = flips["items"][str(item)]
    assert "How many lamps" in question and step >= 1 and token >= 0
    assert (f"#### {target}" in after) == bool(gained) == (f"#### {target}" not in before)


def test_provenance_names_commit_model_hardware_and_versions(page: Page) -> None:
    for shown in ("e896f4a5be", "uncommitted changes", "160eb05e4dab", "H100", "torch 2.13.0+cpu"):
        assert shown in page.text


def test_there_is_no_alarm_without_a_reason(page: Page) -> None:
    assert "alarm" not in page.text.lower()


def test_alarm_stands_first(runs: list[Summary]) -> None:
    index, twin = next((i, r) for i, r in enumerate(runs) if r.config == "k1_last")
    assert twin.items is not None
    bits = unpack_bits(twin.items)
    bits[3] = not bits[3]
    items = Items(n=len(bits), correct_bits=pack_bits(bits))
    other = twin.model_copy(update={"same_as": None, "items": items})
    text = render_page(build_report([*runs[:index], other, *runs[index + 1 :]]))
    main = text.split('<main id="main"')[1]
    assert main.index('class="alarm" role="alert"') < main.index("<section id=")
    assert "k1_first and k1_last must give the same answers" in Page(text).text


def test_only_chosen_experiments_are_shown_with_the_same_controls(runs: list[Summary]) -> None:
    report = build_report(runs, experiments=["02_delta_reuse"])
    full = build_report(runs)
    assert {run.experiment for run in report.summaries} == {"02_delta_reuse"}
    assert report.tasks[0].curves == full.tasks[0].curves
    assert report.tasks[0].baseline is full.tasks[0].baseline


@pytest.mark.parametrize("count", [0, 1])
def test_few_runs_make_a_page_too(runs: list[Summary], count: int) -> None:
    page = Page(render_page(build_report(runs[:count], missing=3)))
    expected = ("No results yet" if count == 0 else "Baseline 00_baseline / k1_first : right on",)
    assert expected[0] in page.text


def test_text_of_runs_cannot_become_markup(runs: list[Summary]) -> None:
    evil = runs[0].model_copy(update={"config": "</script><b>x"})
    text = render_page(build_report([evil]))
    assert "</script><b>" not in text and "&lt;/script&gt;&lt;b&gt;x" in text
    assert Page(text)


def test_a_thousand_runs_fit() -> None:
    many = synthetic.runs(repeat=9)
    text = render_page(build_report(many))
    assert len(many) > 1000 and len(text.encode()) < 5_000_000


def test_samples_elsewhere_are_named(runs: list[Summary], report: Report, tmp_path: Path) -> None:
    elsewhere = build_report(runs, results=tmp_path)
    pairs_here = sum(len(task.flips) for task in report.tasks)
    assert report.missing_answers == (0, pairs_here)
    assert elsewhere.missing_answers == (pairs_here, pairs_here)
    page = Page(render_page(elsewhere))
    pairs = json.loads(page.data)["tasks"]["word_problems"]["flips"]["pairs"]
    assert all("is not on this machine" in pair["why_not"] for pair in pairs)
