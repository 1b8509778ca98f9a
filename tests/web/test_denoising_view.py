"""The denoising view as a person uses it: stepped, played, hovered, by keyboard, side by side."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from fastdllm.traces.record import Trace
from fastdllm.traces.trace_page import compare_page, component_css, component_js, trace_page
from tests.support.made_up_traces import WORDS, made_up_trace

pytestmark = pytest.mark.slow

Open = Callable[..., Any]
STATUS, SLIDER = "[role=status]", "input[type=range]"
TEXTS = [word if word == "\n" else f" {word}" for word in WORDS.split(" ")]
# What would run or load something if it ever became markup.
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    "<!--<script>",
    "\u2028\u2029",
    "javascript:alert(3)",
    '" onmouseover="alert(4)',
    "${alert(5)}",
]


def trace(**changes: Any) -> Trace:
    return Trace.model_validate_json(json.dumps(made_up_trace(**changes)))


@pytest.fixture
def open_view(open_file: Open, tmp_path: Path) -> Open:
    """Open the page of one trace or of two."""

    def opened(*traces: Trace, **look: Any) -> Any:
        page = trace_page(*traces) if len(traces) == 1 else compare_page(*traces)
        path = tmp_path / "trace.html"
        path.write_text(page, encoding="utf-8")
        return open_file(path, **look)

    return opened


def cell(page: Any, index: int, pane: int = 0) -> Any:
    return page.locator(".dn-pane").nth(pane).locator(f'[data-index="{index}"]')


def masked(page: Any, pane: int = 0) -> int:
    return page.locator(".dn-pane").nth(pane).locator('[data-level="mask"]').count()


def counter(page: Any, name: str) -> str:
    return page.locator(".dn-counters div", has_text=name).locator("dd").last.inner_text()


def test_it_opens_at_the_end_and_shows_the_answer(open_view: Open) -> None:
    page = open_view(trace())
    shown = page.locator(".dn-text").all_inner_texts()
    assert [text.strip() for text in shown[: len(TEXTS)]] == [
        text.strip(" ").replace("\n", "\u23ce") for text in TEXTS
    ]
    answer = trace()
    assert page.inner_text(STATUS).startswith(f"Step {len(answer.steps)} of {len(answer.steps)}:")
    assert counter(page, "tokens per forward") == f"{answer.tokens_per_forward:.2f}"
    skipped, computed = (
        answer.passes.layer_forwards_skipped,
        answer.passes.layer_forwards_computed,
    )
    assert counter(page, "saved").startswith(f"{skipped} of {skipped + computed} (")
    assert f"{answer.passes.reused} reused" in counter(page, "passes")


def test_blocks_and_sub_blocks_are_rows_of_the_grid(open_view: Open) -> None:
    page = open_view(trace())
    blocks = page.locator("[role=grid] > [role=rowgroup]")
    assert blocks.count() == 2
    tokens = [
        [row.locator("> [role=gridcell]").count() for row in block.locator("> [role=row]").all()]
        for block in blocks.all()
    ]
    assert tokens == [[5, 8, 8, 8], [8, 8, 8, 8]], "the prompt ends with 3 positions of the block"


def test_the_slider_goes_to_a_step(open_view: Open) -> None:
    page = open_view(trace())
    assert masked(page) == 61 - len(TEXTS), "only the end of the last block"
    page.locator(SLIDER).fill("2")
    assert (
        page.inner_text(STATUS)
        == f"Step 2 of {len(trace().steps)}: full block pass writes 2 tokens"
    )
    assert masked(page) == 61 - 2
    fresh = page.locator(".dn-fresh")
    assert fresh.count() == 2
    assert "new in this step" in fresh.first.get_attribute("aria-label")
    assert counter(page, "passes") == "1 prefill, 1 full block"
    page.locator(SLIDER).fill("0")
    assert masked(page) == 61 and counter(page, "tokens per forward") == "-"


def test_arrows_home_and_end_step(open_view: Open) -> None:
    page = open_view(trace())
    last = len(trace().steps)
    for key, step in (("ArrowLeft", last - 1), ("Home", 0), ("ArrowRight", 1), ("End", last)):
        page.keyboard.press(key)
        assert page.locator(SLIDER).input_value() == str(step)
    page.get_by_label("One step back").click()
    page.keyboard.press("ArrowLeft")
    assert page.locator(SLIDER).input_value() == str(last - 2)


def test_playing_starts_again_at_the_end_and_can_be_stopped(open_view: Open) -> None:
    page = open_view(trace())
    last = len(trace().steps)
    page.clock.install(time=datetime(2026, 1, 1))
    page.clock.pause_at(datetime(2026, 1, 2))
    slider = page.locator(SLIDER)
    page.keyboard.press("Space")
    assert slider.input_value() == "0"
    page.clock.run_for(1000)
    assert slider.input_value() == "4"
    page.get_by_label("speed").select_option("16")
    page.clock.run_for(1000)
    assert 16 <= int(slider.input_value()) <= 20, "the speed holds from the next step on"
    page.get_by_label("Pause", exact=True).click()
    stopped = slider.input_value()
    page.clock.run_for(1000)
    assert slider.input_value() == stopped
    page.get_by_label("Play", exact=True).click()
    page.clock.run_for(5000)
    assert slider.input_value() == str(last)
    page.get_by_label("Play", exact=True).wait_for()


def test_hovering_a_token_tells_of_it(open_view: Open) -> None:
    page = open_view(trace())
    step = next(step for step in trace().steps if len(step.positions) and step.kind == "reused")
    index = step.positions[0] - 35
    cell(page, index).hover()
    text = page.inner_text(".dn-detail")
    assert f"{100 * step.probabilities[0]:.1f} %" in text
    assert f"step {trace().steps.index(step) + 1}" in text and "reused pass" in text
    assert "runners-up" in text and "other7" in text and "other8" in text


def test_a_masked_token_tells_what_was_proposed(open_view: Open) -> None:
    page = open_view(trace())
    page.locator(SLIDER).fill("2")
    cell(page, 0).hover()
    text = page.inner_text(".dn-detail")
    assert text.startswith("masked token 1 of the answer")
    assert "proposed in step 2" in text and "So" in text and "40.0 %" in text


def test_arrow_keys_move_between_tokens(open_view: Open) -> None:
    page = open_view(trace())

    def focused() -> int:
        return int(page.evaluate("document.activeElement.dataset.index"))

    cell(page, 0).focus()
    steps = page.locator(SLIDER).input_value()
    for key, index in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", 60)):
        page.keyboard.press(key)
        assert focused() == index
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    below = focused()
    assert below > 0
    assert f"token {below + 1} of the answer" in page.inner_text(".dn-detail")
    page.keyboard.press("ArrowUp")
    assert focused() == 0
    assert page.locator(SLIDER).input_value() == steps, "the step is as it was"
    assert page.locator('[role=gridcell][tabindex="0"]').count() == 1


def test_colours_say_the_step_or_the_confidence(open_view: Open) -> None:
    page = open_view(trace())
    assert cell(page, 1).locator(".dn-label").inner_text() == "2"
    colour = "one => getComputedStyle(one).backgroundColor"
    by_step = cell(page, 1).evaluate(colour)
    page.get_by_label("confidence").check()
    assert cell(page, 1).locator(".dn-label").inner_text() == "92"
    assert cell(page, 1).evaluate(colour) != by_step
    assert "> 99.9 %" in page.inner_text(".dn-legend")


def test_two_answers_are_shown_in_step_and_their_differences_marked(open_view: Open) -> None:
    changed = made_up_trace(per_step=3)
    for step in changed["steps"]:
        step["tokens"] = [9 if token == 120 else token for token in step["tokens"]]
    changed["answer"]["ids"][20] = 9
    first, second = trace(), Trace.model_validate_json(json.dumps(changed))
    page = open_view(first, second)
    verdict = page.inner_text(".dn-verdict")
    assert f"1 of {len(TEXTS)} tokens differ, the first is token 21" in verdict
    assert f"passes: {len(first.steps)} and {len(second.steps)}" in verdict
    assert f"seconds: {first.seconds:.2f} and {second.seconds:.2f}" in verdict
    for pane in (0, 1):
        assert "\u2260" in cell(page, 20, pane).inner_text()
        assert "differs" in cell(page, 20, pane).get_attribute("aria-label")
    assert page.locator(".dn-differs").count() == 2
    assert page.locator("h2").all_inner_texts() == ["A: threshold 0.8", "B: threshold 0.7"]
    page.locator(SLIDER).fill("4")
    assert masked(page, 0) == 61 - 5 and masked(page, 1) == 61 - 8


@pytest.mark.parametrize("both", [False, True])
def test_texts_of_a_trace_never_become_markup(open_view: Open, both: bool) -> None:
    hostile = trace(words=[*HOSTILE, "<|im_end|>"])
    hostile = hostile.model_copy(
        update={"prompt": hostile.prompt.model_copy(update={"text": "".join(HOSTILE)})}
    )
    page = open_view(*[hostile] * (2 if both else 1))
    page.locator("summary").first.click()
    for index, text in enumerate(HOSTILE):
        assert cell(page, index).locator(".dn-text").text_content() == text
        cell(page, index).hover()
        assert page.locator(".dn-detail code").first.text_content() == text
    assert page.locator("details pre").first.text_content() == "".join(HOSTILE)
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2, "the data, and the one script of the page"


def test_steps_can_be_appended_while_it_is_open(open_file: Open, tmp_path: Path) -> None:
    path = tmp_path / "live.html"
    head = f"<!doctype html><style>{component_css()}</style><div id=view></div>"
    path.write_text(f"{head}<script>{component_js()}</script>", encoding="utf-8")
    page = open_file(path)
    whole = made_up_trace()
    begun = whole | {"steps": [], "pieces": {}}
    begun["answer"] = {"ids": [], "text": "", "finish_reason": "unfinished"}
    page.evaluate("window.view = DenoisingView(document.querySelector('#view')), undefined")
    page.evaluate("begun => view.show(begun)", begun)
    assert masked(page) == 29, "the rest of the first block"
    append = "([steps, pieces]) => view.append(steps, pieces)"
    page.evaluate(append, [whole["steps"][:2], whole["pieces"]])
    assert page.inner_text(STATUS).startswith("Step 2 of 2")
    page.evaluate("view.goto(1)")
    page.evaluate(append, [whole["steps"][2:], {}])
    assert page.locator(SLIDER).input_value() == "1", "who looks at an earlier step stays there"
    page.evaluate("view.goto(Infinity)")
    assert masked(page) == 61 - len(TEXTS)


def test_two_answers_can_be_compared_while_they_are_decoded(
    open_file: Open, tmp_path: Path
) -> None:
    path = tmp_path / "live.html"
    path.write_text(f"<!doctype html><p id=view></p><script>{component_js()}</script>", "utf-8")
    page = open_file(path)
    first, second = made_up_trace(), made_up_trace()
    second["steps"][1]["tokens"][0] = 9
    begun = [one | {"steps": one["steps"][:1]} for one in (first, second)]
    for one in begun:
        one["answer"] = {"ids": [], "text": "", "finish_reason": "unfinished"}
    page.evaluate("window.view = DenoisingView(document.querySelector('#view')), undefined")
    page.evaluate("([a, b]) => view.compare(a, b)", begun)
    assert page.locator(".dn-verdict").text_content().startswith("the same 0 tokens")
    append = "([steps, pane]) => view.append(steps, {}, pane)"
    page.evaluate(append, [first["steps"][1:], 0])
    assert page.locator(".dn-differs").count() == 0, "the other may yet write the same"
    page.evaluate(append, [second["steps"][1:3], 1])
    assert page.locator(".dn-differs").count() == 2
    assert "1 of 59 tokens differ" in page.locator(".dn-verdict").text_content()


@pytest.mark.parametrize(
    ("scheme", "width", "ground"),
    # Colours depend on the scheme alone, and places on the width.
    [("light", 1280, "rgb(255, 255, 255)"), ("dark", 390, "rgb(21, 26, 34)")],
)
def test_it_is_accessible_in_both_themes_and_fits_a_phone(
    open_view: Open, scheme: str, width: int, ground: str
) -> None:
    axe_folder = pytest.importorskip("axe_playwright_python").__path__[0]
    long = trace(words=["word" * 40, *TEXTS])
    page = open_view(trace(), long, scheme=scheme, width=width)
    pane = page.locator(".dn-pane").first
    assert pane.evaluate("one => getComputedStyle(one).backgroundColor") == ground
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate((Path(axe_folder) / "axe.min.js").read_text(encoding="utf-8"))
    for colour in ("step", "confidence"):
        page.get_by_label(colour, exact=True).check()
        for step in ("3", "30"):
            page.locator(SLIDER).fill(step)
            found = page.evaluate("axe.run()")["violations"]
            assert [(one["impact"], one["id"]) for one in found] == []
