"""Take the picture of the report that README.md shows, in a browser: docs/images/report.png.

Run after `fastdllm report`, before committing new artifacts: python -m scripts.update_pictures
Needs Chromium or Chrome, as tests/web does; CHROMIUM names another one.
"""

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "artifacts" / "report.html"
PICTURE = ROOT / "docs" / "images" / "report.png"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Of the first task: from its name over the sentences to the end of the plot.
FIRST, LAST = "section.task h2", "section.task .chart.pareto svg"
WIDTH, MARGIN = 900, 12


def take_picture(browser_path: str, path: Path) -> None:
    """Write the top of the first task of the published report to `path`, as PNG."""
    with sync_playwright() as playwright:
        # Containers seldom allow Chromium's own sandbox; the page is ours and loads nothing.
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 1200}, color_scheme="light")
        page.goto(REPORT.as_uri())
        page.wait_for_selector(LAST)
        top = page.locator(FIRST).first.bounding_box()
        bottom = page.locator(LAST).first.bounding_box()
        assert top is not None and bottom is not None
        y = top["y"] - MARGIN
        height = bottom["y"] + bottom["height"] + MARGIN - y
        page.screenshot(path=path, clip={"x": 0, "y": y, "width": WIDTH, "height": height})
        browser.close()


def main() -> None:
    """Renew the picture."""
    browser = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"no browser found (looked for {', '.join(BROWSERS)}; or set CHROMIUM)")
    take_picture(browser, PICTURE)


if __name__ == "__main__":
    main()
