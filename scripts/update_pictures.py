"""Take the pictures that the docs show, in a browser: report, denoising and page in docs/images.

The denoising view and the page show answers of the embedded model to `QUESTION`, decoded for them.
Run after `fastdllm report`, before committing new artifacts: python -m scripts.update_pictures
Needs Chromium or Chrome, as tests/web does; CHROMIUM names another one.
"""

import io
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser

from fastdllm.traces.record import read_trace
from fastdllm.traces.trace_page import trace_page
from scripts.browser import NOT_FOUND, browser_path, launched

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "artifacts" / "report.html"
IMAGES = ROOT / "docs" / "images"
QUESTION = "Tom has 3 boxes with 12 pens each. He loses 9 pens. How many pens does Tom have now?"
# Of the view: a step in the middle, and the token that is pointed at.
STEP, TOKEN = 7, 5
# Of the first task: from its name over the sentences to the end of the plot.
FIRST, LAST = "section.task h2", "section.task .chart.pareto svg"
WIDTH, MARGIN = 900, 12
PAGE_SIZE = {"width": 1280, "height": 840}


def picture_report(browser: Browser, path: Path) -> None:
    """Write the top of the first task of the published report to `path`, as PNG."""
    page = browser.new_page(viewport={"width": WIDTH, "height": 1200}, color_scheme="light")
    page.goto(REPORT.as_uri())
    page.wait_for_selector(LAST)
    top = page.locator(FIRST).first.bounding_box()
    bottom = page.locator(LAST).first.bounding_box()
    assert top is not None and bottom is not None
    y = top["y"] - MARGIN
    height = bottom["y"] + bottom["height"] + MARGIN - y
    page.screenshot(path=path, clip={"x": 0, "y": y, "width": WIDTH, "height": height})


def picture_view(browser: Browser, path: Path) -> None:
    """Decode an answer, and write its denoising view in the middle to `path`, as PNG."""
    with tempfile.TemporaryDirectory() as folder:
        trace, html = Path(folder) / "trace.json", Path(folder) / "trace.html"
        command = [sys.executable, "-m", "fastdllm", "generate", QUESTION, "--trace", str(trace)]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        html.write_text(trace_page(read_trace(trace)), encoding="utf-8")
        page = browser.new_page(viewport={"width": WIDTH, "height": 600}, color_scheme="light")
        page.goto(html.as_uri())
        page.get_by_label("Step", exact=True).fill(str(STEP))
        page.locator(f"[data-index='{TOKEN}']").hover()
        page.screenshot(path=path, full_page=True)


def picture_page(browser: Browser, path: Path) -> None:
    """Write the page of `fastdllm web` with two answers side by side to `path`, as PNG."""
    command = [sys.executable, "-m", "fastdllm", "web", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().partition(": ")[2].split()[0]
            page = browser.new_page(viewport=PAGE_SIZE, color_scheme="light")
            page.goto(address)
            page.get_by_role("tab", name="Side by side").click()
            page.get_by_role("button", name="Compare").click()
            page.get_by_text("decoded one after the other").wait_for()
            shot = Image.open(io.BytesIO(page.screenshot()))
            # 256 colours are enough, and a third of the size.
            shot.convert("RGB").quantize(dither=Image.Dither.NONE).save(path, optimize=True)
        finally:
            server.terminate()


def main() -> None:
    """Renew the pictures."""
    path = browser_path()
    if path is None:
        sys.exit(NOT_FOUND)
    with launched(path) as browser:
        picture_report(browser, IMAGES / "report.png")
        picture_view(browser, IMAGES / "denoising.png")
        picture_page(browser, IMAGES / "page.png")


if __name__ == "__main__":
    main()
