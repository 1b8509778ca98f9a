"""How soon the page of `fastdllm web` shows something, and what watching costs.

`python -m benchmarks.page`: the embedded model in a real browser, one thread for torch. The answers
with the denoising view open and those that nobody watches are timed in turn, by the service, and
the ratio is the median of those of each round.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
import threading
from statistics import median
from typing import Any

import torch
from playwright.sync_api import sync_playwright

from benchmarks.record import record
from fastdllm import DecodingSettings, Request, load_model
from fastdllm.endpoint.app import create_app
from fastdllm.endpoint.served import Served
from fastdllm.endpoint.server import open_port, server_of
from fastdllm.model.config import EMBEDDED_MODEL
from fastdllm.model.tokenizer import load_tokenizer, prompt_ids
from fastdllm.serving.service import Service
from fastdllm.web.layout import EXAMPLES, add_page
from fastdllm.web.presets import Presets
from scripts.browser import browser_path

COMMAND = "python -m benchmarks.page"
ROUNDS, TOKENS = 7, 1024
# Milliseconds from a key that is pressed to a token that is known, as the browser counts them.
FIRST_TOKEN = """() => new Promise((found) => {
  const grid = () => document.querySelector(".dn-grid");
  let pressed = null, before = null;
  addEventListener("keydown", () => {
    if (pressed === null) [pressed, before] = [performance.now(), grid()];
  }, true);
  const look = () => {
    const isNew = pressed !== null && grid() !== before;
    if (isNew && grid().querySelector('.dn-token:not([data-level="mask"])')) {
      found(performance.now() - pressed);
    } else requestAnimationFrame(look);
  };
  look();
})"""


def main() -> None:
    """Measure and record."""
    torch.set_num_threads(1)
    model = load_model(EMBEDDED_MODEL, device="cpu")
    # So that all answers have the same length.
    model.config = dataclasses.replace(model.config, stop_tokens=())
    settings, tokenizer = (
        DecodingSettings(max_new_tokens=TOKENS),
        load_tokenizer(str(EMBEDDED_MODEL)),
    )
    service = Service(model, slots=8)
    served = Served(EMBEDDED_MODEL.name, model, tokenizer, service, settings)
    app = create_app(served)
    add_page(app, served, Presets({}))
    bound = open_port("127.0.0.1", 0)
    bound.listen()
    server = server_of(app, service.close)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    address = f"http://127.0.0.1:{bound.getsockname()[1]}/"
    request = Request(prompt_ids(tokenizer, EXAMPLES[0]), max_new_tokens=TOKENS, from_scratch=True)

    def unwatched() -> float:
        stream = service.submit(request, settings)
        steps = list(stream)
        return TOKENS / stream.seconds(len(steps) - 1)

    shown_ms, first_ms, ratios = [], [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
        page = browser.new_page()
        for number in range(ROUNDS + 1):
            page.goto(address)
            page.get_by_label("Question").first.wait_for()
            shown = page.evaluate("performance.now()")
            before = unwatched() if number % 2 else None
            first, speed = _watched(page)
            alone = before or unwatched()
            if number:  # the first round is for caches
                shown_ms.append(shown)
                first_ms.append(first)
                ratios.append(speed / alone)
        browser.close()
    server.should_exit = True
    thread.join()
    load = f"load {os.getloadavg()[0]:.1f}"
    figures = {
        "page, models/tiny: until a question can be typed": _spread(shown_ms, load),
        "page, models/tiny: from Enter to the first token": _spread(first_ms, load),
        f"page, models/tiny, {TOKENS} tokens, denoising view open: over nobody watching": (
            f"{median(ratios):.2f} times the tokens/s ({min(ratios):.2f} to {max(ratios):.2f}), "
            f"{load}"
        ),
    }
    if "--dry" not in sys.argv:
        record("page", command=COMMAND, figures=figures)
    for figure, value in figures.items():
        sys.stdout.write(f"{figure}: {value}\n")


def _watched(page: Any) -> tuple[float, float]:
    """Ask on the page; return the milliseconds to the first token, and the answer's tokens/s."""
    page.evaluate(f"() => {{ window.firstToken = ({FIRST_TOKEN})(); }}")
    line = page.get_by_label("Question").first
    line.fill(EXAMPLES[0])
    line.press("Enter")
    first = page.evaluate("window.firstToken")
    figures = page.get_by_text(re.compile(rf"{TOKENS} tokens in")).first
    figures.wait_for(timeout=60_000)
    found = re.search(r"\(([\d.]+) tokens/s\)", figures.inner_text())
    assert found is not None
    return first, float(found[1])


def _spread(milliseconds: list[float], load: str) -> str:
    return (
        f"{median(milliseconds) / 1000:.2f} s ({min(milliseconds) / 1000:.2f} to "
        f"{max(milliseconds) / 1000:.2f}), {load}"
    )


if __name__ == "__main__":
    main()
