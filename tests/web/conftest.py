"""A real browser: the Chromium or Chrome of the machine, driven by Playwright."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastdllm.report.content import build_report
from fastdllm.report.page import render_page
from fastdllm.report.sensitivity_map import SensitivityMap
from fastdllm.tools.sensitivity.sensitivity_record import SensitivityRecord
from scripts.browser import NOT_FOUND, browser_path, launched
from tests.support import made_up_runs as synthetic


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for all tests of a module; without any they are skipped.

    Not for a whole process: while it is open, asyncio takes its loop for a running one, also in
    tests that come later.
    """
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = browser_path()
    if path is None:
        # CI names one (CHROMIUM), so that a missing browser fails there instead.
        pytest.skip(NOT_FOUND)
    with launched(path) as started:
        yield started


OpenFile = Callable[..., Any]


@pytest.fixture
def open_file(browser: Any) -> Iterator[OpenFile]:
    """Open an HTML file; afterwards nothing may have failed or been asked of a network."""
    contexts, trouble = [], []

    def asked(request: Any) -> None:
        if not request.url.startswith(("file:", "data:")):
            trouble.append(f"asked for {request.url}")

    def opened(path: Path, *, scheme: str = "light", width: int = 1280) -> Any:
        viewport = {"width": width, "height": 900}
        context = browser.new_context(color_scheme=scheme, viewport=viewport)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: m.type in ("error", "warning") and trouble.append(m.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("dialog", lambda dialog: trouble.append(f"dialog {dialog.message}"))
        page.on("request", asked)
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert trouble == []


@pytest.fixture(scope="session")
def report_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page on 116 made-up runs."""
    folder = tmp_path_factory.mktemp("report")
    runs = synthetic.runs()
    synthetic.write_samples(folder / "results", runs)
    report = build_report(
        runs,
        sensitivity=SensitivityMap(
            Path("sensitivity.json"), SensitivityRecord.model_validate(synthetic.sensitivity())
        ),
        results=folder / "results",
    )
    path = folder / "report.html"
    path.write_text(render_page(report), encoding="utf-8")
    return path
