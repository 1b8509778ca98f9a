"""A real browser: the Chromium or Chrome of the machine, driven by Playwright."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from fastdllm.report.content import build_report
from fastdllm.report.page import render_page
from fastdllm.report.sensitivity_map import SensitivityMap
from fastdllm.tools.sensitivity.sensitivity_record import SensitivityRecord
from scripts.browser import NOT_FOUND, browser_path, launched
from tests.endpoint.running import Running
from tests.support import made_up_runs as synthetic
from tests.support.project_with_runs import make_project
from tests.web.running_page import running_page

# What Gradio's client warns of whenever an upload ends.
AFTER_UPLOADS = "Method not implemented."
RUNS = ("00_baseline/k1_first", "01_adaptive_skip/change0.2_first")


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


Open = Callable[..., Any]


@pytest.fixture
def open_address(browser: Any) -> Iterator[Open]:
    """Open a page; afterwards nothing may have failed or been asked of another server."""
    contexts, trouble = [], []

    def opened(address: str, *, scheme: str = "light", width: int = 1280) -> Any:
        own = f"{urlsplit(address).scheme}://{urlsplit(address).netloc}"
        viewport = {"width": width, "height": 900}
        context = browser.new_context(color_scheme=scheme, viewport=viewport)
        contexts.append(context)
        page = context.new_page()

        def asked(request: Any) -> None:
            if not request.url.startswith((own, "data:", "blob:")):
                trouble.append(f"asked for {request.url}")

        def told(message: Any) -> None:
            if message.type in ("error", "warning") and message.text != AFTER_UPLOADS:
                trouble.append(f"{message.text} {message.location.get('url', '')}")

        page.on("console", told)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("dialog", lambda dialog: trouble.append(f"dialog {dialog.message}"))
        page.on("request", asked)
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert trouble == []


@pytest.fixture
def open_file(open_address: Open) -> Open:
    """Open an HTML file, likewise."""
    return lambda path, **look: open_address(path.as_uri(), **look)


@pytest.fixture(scope="session")
def axe() -> str:
    """The script that checks accessibility."""
    axe_playwright_python = pytest.importorskip("axe_playwright_python")
    folder = Path(axe_playwright_python.__path__[0])
    return (folder / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two finished runs of three items; one skips layers, and errs."""
    folder = tmp_path_factory.mktemp("project")
    make_project(folder, RUNS, limit=3)
    return folder


@pytest.fixture(scope="module")
def server(project: Path) -> Iterator[Running]:
    """The page of the project, with one slot per lane."""
    with chdir(project), running_page(slots=1) as one:
        yield one


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
        speeds=synthetic.speeds(runs),
    )
    path = folder / "report.html"
    path.write_text(render_page(report), encoding="utf-8")
    return path
