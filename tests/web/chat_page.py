"""The page in a browser, by what a person sees of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MASK = "\u2581"
SLIDER = "input[type=range][aria-label=Step]"


class ChatPage:
    """The tab of a browser that shows the page."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.line = page.get_by_placeholder("Your question")
        self.view = page.locator("#denoising")

    def ask(self, question: str) -> None:
        """Send a question."""
        self.line.fill(question)
        self.line.press("Enter")

    def said(self, text: str) -> Any:
        """Wait for a line of text that the page says; return it."""
        line = self.page.locator(".said p:visible", has_text=text)
        line.wait_for()
        return line

    def asked(self, question: str) -> None:
        """Send a question, and wait for the end of the answer."""
        count = self.answers.count()
        self.ask(question)
        self.page.get_by_label("Retry").wait_for()
        self.answers.nth(count).wait_for()
        self.said("tokens per forward")

    def refused(self, reason: str) -> None:
        """Wait for a refusal."""
        self.page.get_by_test_id("toast-text").get_by_text(reason).last.wait_for()

    @property
    def answers(self) -> Any:
        """The answers of the conversation."""
        return self.page.locator("[data-testid=bot]")

    @property
    def questions(self) -> Any:
        """The questions of the conversation."""
        return self.page.locator("[data-testid=user]")

    def tab(self, name: str) -> None:
        """Go to a tab of the page."""
        self.page.get_by_role("tab", name=name).click()

    def setting(self, name: str) -> Any:
        """The field of a setting, or of another value with a label."""
        label = self.page.locator("[data-testid=block-info]").get_by_text(name, exact=True)
        blocks = self.page.locator(".block:visible", has=label)
        return blocks.last.locator("input, textarea").first

    def settings(self, **values: str | float) -> None:
        """Open the decoding settings, and change some."""
        if not self.setting("threshold").is_visible():
            self.page.get_by_role("button", name="Decoding settings").click()
        for name, value in values.items():
            field = self.setting(name.replace("system_text", "system text"))
            field.fill(str(value))
            field.press("Enter" if name == "preset" else "Tab")

    def clear(self) -> None:
        """Forget the conversation."""
        self.page.locator("button[aria-label=Clear]:visible").click()
        self.answers.first.wait_for(state="detached")

    def masks(self, pane: int = 0) -> int:
        """Number of masked tokens in the view."""
        return int(self.view.locator(".dn-pane").nth(pane).locator("[data-level=mask]").count())

    def shows_prompt_of(self, tokens: int) -> None:
        """Wait until the view shows an answer to a prompt of so many tokens."""
        self.view.locator("summary", has_text=f"({tokens} tokens)").wait_for()

    def status(self) -> str:
        """The line that says which step is shown."""
        return str(self.view.locator(".dn-now").inner_text())

    def download(self, button: str, count: int = 1) -> list[Path]:
        """Press a button, and return the files that come of it."""
        found: list[Any] = []

        def take(one: Any) -> None:
            found.append(one)

        self.page.on("download", take)
        with self.page.expect_event("download", lambda _: len(found) == count):
            self.page.get_by_role("button", name=button).click()
        self.page.remove_listener("download", take)
        found.sort(key=lambda one: one.suggested_filename)
        return [Path(one.path()) for one in found]

    def trace(self) -> dict[str, Any]:
        """The steps shown, as their file has them."""
        (path,) = self.download("Steps, JSON")
        return dict(json.loads(path.read_text(encoding="utf-8")))
