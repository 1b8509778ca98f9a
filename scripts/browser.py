"""The browser that takes pictures and runs tests: Chromium or Chrome, as the machine has it.

Short, as scripts and tests share it. The environment variable CHROMIUM names another one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
NOT_FOUND = f"no browser found (looked for {', '.join(NAMES)}; or set CHROMIUM)"


def browser_path() -> str | None:
    """Return where the browser is; None if there is none."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def launched(path: str) -> Iterator[Browser]:
    """Start the browser, and close it at the end of the block."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Containers seldom allow Chromium's own sandbox; the pages are ours and load nothing.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
