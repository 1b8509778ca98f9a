"""The view on the page: stepped, compared, opened and exported, on any screen and by keyboard."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fastdllm.cli import main
from fastdllm.traces.page_links import LinkedAnswers
from fastdllm.traces.record import read_trace
from tests.endpoint.running import Running
from tests.web.chat_page import SLIDER, ChatPage
from tests.web.conftest import RUNS

pytestmark = pytest.mark.slow

TOM = "Tom has 3 boxes with 12 pens each. He loses 9 pens. How many pens does Tom have now?"
NAMES = [run.replace("/", "/word_problems_limit_3/") for run in RUNS]
Open = Callable[..., ChatPage]


@pytest.fixture
def open_page(open_address: Any, server: Running) -> Open:
    """Open the page."""

    def opened(path: str = "/", **look: Any) -> ChatPage:
        return ChatPage(open_address(f"http://127.0.0.1:{server.port}{path}", **look))

    return opened


@pytest.fixture
def trace_file(tmp_path: Path) -> Callable[..., Path]:
    """Write the trace of an answer to `TOM`."""

    def written(name: str, *options: str) -> Path:
        assert main(["generate", TOM, "--trace", str(tmp_path / name), *options]) == 0
        return tmp_path / name

    return written


def test_an_example_is_there_at_once_to_step_through_and_to_keep(
    open_page: Open, open_file: Any, tmp_path: Path
) -> None:
    page = open_page()
    slider, view = page.page.locator(SLIDER), page.view
    view.get_by_text("An example, until you ask.").wait_for()
    last = int(slider.input_value())
    slider.fill("2")
    assert page.status().startswith(f"Step 2 of {last}: ") and page.masks() > 0
    view.get_by_label("confidence").check()
    shown = view.locator(".dn-text").all_inner_texts()
    (path,) = page.download("Steps, JSON")
    trace = read_trace(path)
    assert len(trace.steps) == last and trace.prompt.text.count(TOM) == 1
    known = sum(len(step.positions) for step in trace.steps[:2])
    assert sum(text != "\u2581" for text in shown) == known

    (path,) = page.download("Page, HTML")
    (tmp_path / "kept.html").write_bytes(path.read_bytes())
    kept = open_file(tmp_path / "kept.html")
    kept.locator(SLIDER).fill("2")
    assert kept.locator(".dn-text").all_inner_texts() == shown

    pictures = {}
    for button in ("Picture, PNG", "Animation, GIF"):
        (path,) = page.download(button)
        pictures[button] = Image.open(io.BytesIO(path.read_bytes()))
    assert pictures["Picture, PNG"].format == "PNG"
    assert pictures["Animation, GIF"].n_frames == last + 1
    page.page.emulate_media(color_scheme="dark")
    (path,) = page.download("Picture, PNG")
    assert Image.open(path).convert("RGB").getpixel((0, 0)) == (21, 26, 34), "as dark as the page"


def test_the_page_is_used_by_keyboard_alone(open_page: Open) -> None:
    page = open_page()
    keys, place = page.page.keyboard, page.page.locator(":focus")
    page.view.locator(".dn-pane").wait_for()

    def tab_to(wanted: Any) -> None:
        for _ in range(60):
            keys.press("Tab")
            if wanted.evaluate("one => one === document.activeElement"):
                return
        raise AssertionError(f"no way to {wanted}")

    tab_to(page.line)
    keys.type("Lena has 10 cups. Leo has 42 cups. How many cups do they have together?")
    keys.press("Enter")
    page.said("tokens per forward")
    tab_to(page.page.get_by_role("button", name="Stop"))
    tab_to(page.page.get_by_role("button", name="Decoding settings"))
    tab_to(page.view.get_by_label("Play", exact=True))
    keys.press("Home")
    assert page.status().startswith("Before the first of ")
    keys.press("ArrowRight")
    assert page.status().startswith("Step 1 of ")
    tab_to(page.page.locator(SLIDER))
    keys.press("End")
    assert page.masks() < 32
    tab_to(page.view.locator("[data-index='0']"))
    keys.press("ArrowRight")
    assert place.get_attribute("data-index") == "1"
    assert "token 2 of the answer" in page.view.locator(".dn-detail").inner_text()
    tab_to(page.page.get_by_role("button", name="Steps, JSON"))
    with page.page.expect_download() as download:
        keys.press("Enter")
    assert read_trace(download.value.path()).passes.full_block > 0


def test_one_question_is_decoded_under_two_settings_side_by_side(
    open_page: Open, trace_file: Callable[..., Path]
) -> None:
    page = open_page()
    page.tab("Side by side")
    assert page.setting("Question").input_value() == TOM
    assert page.setting("threshold").input_value() == "0.3"
    page.page.get_by_role("button", name="Compare").click()
    page.said("decoded one after the other")
    files = [trace_file("a.json", "--max-new-tokens", "96")]
    files.append(trace_file("b.json", "--max-new-tokens", "96", "--threshold", "0.3"))
    expected = [read_trace(path) for path in files]
    found = [read_trace(path) for path in page.download("Steps, JSON", count=2)]
    assert [one.answer for one in found] == [one.answer for one in expected]
    assert [one.steps[-1].positions for one in found] == [
        one.steps[-1].positions for one in expected
    ]
    ids = [one.answer.ids for one in found]
    differing = sum(a != b for a, b in zip(*ids, strict=False)) + abs(len(ids[0]) - len(ids[1]))
    verdict = page.view.locator(".dn-verdict").inner_text()
    assert f"{differing} of {max(map(len, ids))} tokens differ" in verdict
    assert f"passes: {len(found[0].steps)} and {len(found[1].steps)}" in verdict
    marked = page.view.locator(".dn-pane").first.locator(".dn-differs").count()
    assert marked == sum(a != b for a, b in zip(*ids, strict=False)) > 0
    assert page.view.locator("h2").all_inner_texts() == ["A: threshold 0.9", "B: threshold 0.3"]


def test_traces_and_answers_of_runs_are_opened(
    open_page: Open, trace_file: Callable[..., Path], tmp_path: Path, project: Path
) -> None:
    link = LinkedAnswers(NAMES[0], NAMES[1], 1).link()
    page = open_page(link.partition("10086")[2])
    verdict = page.view.locator(".dn-verdict")
    page.said("decoded one after the other")
    lines = []
    for name in NAMES:
        samples = (project / "results" / name / "samples.jsonl").read_text(encoding="utf-8")
        lines.append(json.loads(samples.splitlines()[1]))
    traces = [read_trace(path) for path in page.download("Steps, JSON", count=2)]
    assert [list(trace.answer.ids) for trace in traces] == [line["token_ids"] for line in lines]
    assert [trace.policy for trace in traces] == ["LayerReuse", "AdaptiveSkip"]
    before = verdict.inner_text()

    page.setting("run").fill(NAMES[1])
    page.setting("run").press("Enter")
    page.setting("compared with").fill("no/such/run")
    page.setting("compared with").press("Enter")
    page.page.get_by_role("button", name="Show").click()
    page.refused("unknown run with answers here 'no/such/run'")
    assert verdict.inner_text() == before

    upload = page.page.locator("input[type=file]")
    one = trace_file("one <b>bold ![](x).json")
    upload.set_input_files(str(one))
    said = page.said("bold")
    assert said.locator("*").count() == 0, "as text"
    assert page.view.locator(".dn-pane").count() == 1
    assert page.trace() == json.loads(one.read_text(encoding="utf-8"))
    broken = tmp_path / "broken.json"
    broken.write_text(one.read_text(encoding="utf-8")[:-9])
    page.page.get_by_label("Clear").locator("visible=true").first.click()
    upload.set_input_files(str(broken))
    page.refused("broken.json")
    page.page.get_by_label("Clear").locator("visible=true").first.click()
    upload.set_input_files([str(one), str(trace_file("two.json", "--threshold", "0.5"))])
    page.said("two.json")
    assert page.view.locator("h2").all_inner_texts() == ["A: threshold 0.9", "B: threshold 0.5"]


LIGHT, DARK = "rgb(245, 246, 248)", "rgb(14, 18, 24)"


@pytest.mark.parametrize(
    ("path", "scheme", "ground"),
    [("/", "dark", DARK), ("/?__theme=light", "dark", LIGHT), ("/?__theme=dark", "light", DARK)],
)
def test_it_is_as_dark_as_the_system_or_the_address_says(
    open_page: Open, path: str, scheme: str, ground: str
) -> None:
    page = open_page(path, scheme=scheme)
    page.view.locator(".dn-pane").wait_for()
    colour = "place => getComputedStyle(document.querySelector(place)).backgroundColor"
    assert [page.page.evaluate(colour, place) for place in ("body", "gradio-app")] == [ground] * 2
    pane = page.page.evaluate(colour, ".dn-pane")
    assert pane == ("rgb(21, 26, 34)" if ground == DARK else "rgb(255, 255, 255)")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_it_is_accessible_and_fits_a_phone(
    open_page: Open, axe: str, scheme: str, width: int
) -> None:
    page = open_page(scheme=scheme, width=width)
    page.page.evaluate(axe)
    page.settings()
    page.page.get_by_role("button", name="More settings").locator("visible=true").click()
    page.asked(TOM)
    page.download("Page, HTML")
    for tab in ("Chat", "Side by side", "Open"):
        page.tab(tab)
        found = page.page.evaluate("axe.run()")["violations"]
        assert [(one["impact"], one["id"], one["nodes"][0]["html"]) for one in found] == []
        assert page.page.evaluate("document.documentElement.scrollWidth") <= width


def test_page_endpoint_chat_and_command_give_the_same_tokens(
    open_page: Open,
    server: Running,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    trace_file: Callable[..., Path],
) -> None:
    options = ("--threshold", "0.6", "--max-new-tokens", "96")
    trace = read_trace(trace_file("trace.json", *options))
    capsys.readouterr()
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{TOM}\n"))
    assert main(["chat", *options]) == 0
    assert capsys.readouterr().out.startswith(f"{trace.answer.text}\n")
    message = {"role": "user", "content": TOM}
    status, answer = server.ask(
        "/v1/chat/completions", {"messages": [message], "threshold": 0.6, "max_tokens": 96}
    )
    assert (status, answer["choices"][0]["message"]["content"]) == (200, trace.answer.text)
    page = open_page()
    page.settings(threshold=0.6)
    page.asked(TOM)
    shown = page.trace()
    assert shown["answer"]["ids"] == list(trace.answer.ids)
    assert page.answers.last.inner_text() == trace.answer.text
