"""The chat as a person uses it: asked, watched, stopped, corrected, and shared with others."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from fastdllm import DecodingSettings, Generation, generate
from fastdllm.serving.conversation import Conversation, Turn
from tests.endpoint.running import Running, held_up, wait_until
from tests.web.chat_page import MASK, SLIDER, ChatPage
from tests.web.conftest import RUNS

pytestmark = pytest.mark.slow

TOM = "Tom has 3 boxes with 12 pens each. He loses 9 pens. How many pens does Tom have now?"
LENA = "Lena has 10 cups. Leo has 42 cups. How many cups do they have together?"
# What would load, run or vanish if it ever became markup.
HOSTILE = (
    "<img src=x onerror=alert(1)> **bold** <script>alert(2)</script> <!-- gone --> <?a?> </> </b x>"
    " &lt;b&gt; &amp; &copy 3 < 4 && a&b $x^2$ [1](javascript:alert(3))\n    indented"
)


@pytest.fixture
def chat(open_address: Any, server: Running) -> ChatPage:
    """The page, just opened."""
    return ChatPage(open_address(f"http://127.0.0.1:{server.port}"))


def expected(
    server: Running, question: str, talk: Conversation | None = None, **settings: Any
) -> Generation:
    """What `generate` answers."""
    served = server.served
    prompt = (talk or Conversation()).prompt_ids(served.tokenizer, question)
    chosen = DecodingSettings(**{"max_new_tokens": 96, **settings})
    return generate(served.model, [prompt], chosen)[0]


def text_of(server: Running, answer: Generation) -> str:
    return str(server.served.tokenizer.decode(answer.token_ids, skip_special_tokens=True))


def test_an_answer_fills_in_pass_by_pass_and_is_that_of_generate(
    chat: ChatPage, server: Running
) -> None:
    answer = expected(server, TOM)
    with held_up(server) as gate:
        chat.ask(TOM)
        wait_until(lambda: server.service.figures().waiting)
        gate.passes.release()  # lets it in
        seen = []
        for number in range(1, 4):
            gate.passes.release()
            chat.view.locator(".dn-now", has_text=f"Step {number} of {number}").wait_for()
            seen.append((chat.answers.last.inner_text(), chat.masks()))
        assert all(MASK in text for text, _ in seen)
        assert seen[0][1] > seen[2][1] > 0
        chat.page.locator(SLIDER).fill("2")
        chat.view.locator("[data-index='0']").hover()
        assert "token 1 of the answer" in chat.view.locator(".dn-detail").inner_text()
        gate.passes.release()
        chat.view.locator(".dn-now", has_text="Step 2 of 4").wait_for()
        gate.is_open = True
        gate.passes.release()
        chat.said("tokens per forward")
    assert chat.answers.last.inner_text() == text_of(server, answer)
    last = len(chat.trace()["steps"])
    assert chat.status().startswith(f"Step 2 of {last}: "), "who stepped back stays there"
    chat.view.get_by_label("speed").select_option("32")
    chat.view.get_by_label("Play", exact=True).click()
    chat.view.locator(".dn-now", has_text=f"Step {last} of {last}").wait_for()
    assert chat.masks() == 0


def test_no_text_is_markup(chat: ChatPage) -> None:
    # Not at the head: it imports gradio, for seconds in each process that collects tests.
    from fastdllm.web.chat_tab import APART, literal

    draw = random.Random(0)
    parts = [*"<>&;#!?/-= '\"\t\n", "<b", "</", "<!--", "&lt", "&amp;", "&#60", "&#x3c;", "a", "3"]
    texts = ["".join(draw.choices(parts, k=9)) for _ in range(3000)]
    as_shown = """texts => texts.map(text => {
      const there = document.createElement("template");
      there.innerHTML = text;
      return there.content.textContent;
    })"""
    shown = chat.page.evaluate(as_shown, [literal(text) for text in texts])
    assert [text.replace(APART, "") for text in shown] == texts
    assert sum(literal(text) != text for text in texts) > 100


def test_turns_go_on_with_what_was_said_and_each_shows_its_steps(
    chat: ChatPage, server: Running
) -> None:
    tokenizer = server.served.tokenizer
    chat.settings(system_text="Be brief.")
    chat.asked(TOM)
    talk = Conversation(system="Be brief.")
    first = expected(server, TOM, talk)
    assert chat.answers.first.inner_text() == text_of(server, first)
    chat.asked(LENA)
    talk = talk.with_turn(Turn(question=TOM, answer=text_of(server, first)))
    second = expected(server, LENA, talk)
    trace = chat.trace()
    assert trace["answer"]["ids"] == second.token_ids
    assert trace["prompt"]["ids"] == list(talk.prompt_ids(tokenizer, LENA))
    assert [one.inner_text() for one in chat.questions.all()] == [TOM, LENA]
    assert chat.answers.last.inner_text() == text_of(server, second)
    prompts = [Conversation(system="Be brief.").prompt_ids(tokenizer, TOM), trace["prompt"]["ids"]]
    for show in (chat.answers.first.click, chat.page.get_by_label("1", exact=True).check):
        chat.page.get_by_label("2", exact=True).check()
        chat.shows_prompt_of(len(prompts[1]))
        show()
        chat.shows_prompt_of(len(prompts[0]))
    assert chat.trace()["answer"]["ids"] == first.token_ids


def test_an_answer_is_stopped_repeated_corrected_taken_back_and_cleared(
    chat: ChatPage, server: Running
) -> None:
    page, tom, lena = chat.page, expected(server, TOM), expected(server, LENA)
    whole = text_of(server, tom)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    with held_up(server) as gate:
        chat.ask(TOM)
        wait_until(lambda: server.service.figures().waiting)
        for _ in range(4):
            gate.passes.release()
        chat.view.locator(".dn-now", has_text="Step 3 of 3").wait_for()
        with page.expect_response("**/run/predict"):
            page.get_by_role("button", name="Stop").click()
        gate.is_open = True
        gate.passes.release()
        chat.said("stopped | ")
    kept = chat.answers.last.inner_text()
    start, mark = kept.rsplit("\n", 1)
    assert mark == "[stopped]" and whole.startswith(start) and start != whole
    page.get_by_label("Retry").click()
    chat.said(f"{len(tom.token_ids)} tokens in")
    assert chat.answers.all_inner_texts() == [whole]

    page.get_by_label("Copy message").last.click()
    assert page.evaluate("navigator.clipboard.readText()") == whole

    page.get_by_label("Edit").click()
    page.get_by_role("log").get_by_role("textbox").fill(LENA)
    page.get_by_label("Submit").click()
    chat.said(f"{len(lena.token_ids)} tokens in")
    assert chat.answers.all_inner_texts() == [text_of(server, lena)]

    page.get_by_role("button", name="Undo", exact=True).click()
    chat.answers.first.wait_for(state="detached")
    assert chat.line.input_value() == LENA
    chat.asked(TOM)
    assert chat.answers.all_inner_texts() == [whole], "what was taken back is forgotten"

    with held_up(server) as gate:
        chat.ask(LENA)
        wait_until(lambda: server.service.figures().waiting)
        gate.passes.release()
        gate.passes.release()
        chat.view.locator(".dn-now", has_text="Step 1 of 1").wait_for()
        chat.clear()
        while page.locator(".said p:visible").count():
            gate.passes.release()
        assert server.service.figures().decoding == 1
    assert chat.answers.count() == 0, "nothing comes back"
    chat.asked(TOM)
    assert chat.answers.all_inner_texts() == [whole]


def test_the_place_in_the_queue_is_shown_and_a_closed_tab_frees_its_slot(
    open_address: Any, chat: ChatPage, server: Running
) -> None:
    other = ChatPage(open_address(f"http://127.0.0.1:{server.port}"))
    with held_up(server) as gate:
        chat.ask(TOM)
        wait_until(lambda: server.service.figures().waiting)
        gate.passes.release()
        gate.passes.release()
        chat.view.locator(".dn-now", has_text="Step 1 of 1").wait_for()
        other.ask(LENA)
        other.said("place 1 in the queue")
        chat.page.close()
        wait_until(lambda: gate.passes.release() or not server.service.figures().waiting)
        gate.is_open = True
        gate.passes.release()
        other.said("tokens per forward")
    assert other.answers.last.inner_text() == text_of(server, expected(server, LENA))


def test_settings_decide_the_answer_and_mistakes_are_one_line(
    chat: ChatPage, server: Running
) -> None:
    chat.settings(threshold=0.5)
    chat.asked(TOM)
    ids = chat.trace()["answer"]["ids"]
    assert ids == expected(server, TOM, threshold=0.5).token_ids
    chat.settings(threshold=0.9, reuse_k=2)
    chat.ask(LENA)
    chat.refused("reuse_k 2 needs layer_subset as well")
    assert chat.answers.count() == 1, "nothing was decoded"
    chat.settings(layer_subset="last")
    chat.clear()
    chat.asked(TOM)
    trace = chat.trace()
    answer = expected(server, TOM, reuse_k=2, layer_subset="last")
    assert trace["answer"]["ids"] == answer.token_ids
    assert trace["passes"]["reused"] == answer.passes.reused > 0


@pytest.mark.parametrize("run", RUNS)
def test_a_preset_decodes_as_the_run_of_its_config(chat: ChatPage, project: Path, run: str) -> None:
    experiment, config = run.split("/")
    samples = project / "results" / experiment / "word_problems_limit_3" / config / "samples.jsonl"
    lines = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    chat.settings(preset=run)
    if experiment == "01_adaptive_skip":
        chat.said("policy AdaptiveSkip, ")
    for line in lines[:2]:
        question = line["prompt"].partition("user\n")[2].partition("<|im_end|>")[0]
        chat.asked(question)
        trace = chat.trace()
        assert trace["prompt"]["text"] == line["prompt"]
        assert trace["answer"]["ids"] == line["token_ids"]
        assert trace["passes"]["sub_block"] == line["passes"]["sub_block"]
        chat.clear()


def test_texts_are_shown_as_they_are(chat: ChatPage, server: Running) -> None:
    from fastdllm.web.chat_tab import APART

    chat.settings(system_text=HOSTILE)
    chat.asked(HOSTILE)
    assert chat.questions.last.inner_text().replace(APART, "") == HOSTILE
    chat.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    chat.page.get_by_label("Copy message").first.click()
    assert chat.page.evaluate("navigator.clipboard.readText()") == HOSTILE
    chat.view.locator("summary").click()
    assert HOSTILE in chat.view.locator("pre").inner_text()
    for place in (chat.view, chat.page.get_by_role("log")):
        assert place.locator("img, b, strong, .katex").count() == 0
    chat.page.get_by_label("Edit").click()
    line = chat.page.get_by_role("log").get_by_role("textbox")
    line.press("Control+End")
    line.press_sequentially("!")
    assert line.input_value().endswith("!")
    chat.page.get_by_label("Submit").click()
    talk = Conversation(system=HOSTILE)
    prompt = talk.prompt_ids(server.served.tokenizer, f"{HOSTILE}!")
    chat.shows_prompt_of(len(prompt))
    chat.said("tokens per forward")
    assert chat.trace()["prompt"]["ids"] == list(prompt), "just what was typed"
    chat.settings(layer_subset=HOSTILE)
    chat.ask(TOM)
    chat.refused("<img src=x onerror=alert(1)>")
