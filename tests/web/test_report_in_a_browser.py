"""The report as a person uses it: opened from a file, hovered, sorted, in light and dark."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from fastdllm.traces.page_links import linked_answers

pytestmark = pytest.mark.slow

WORDS = "section#word_problems"
PARETO = f"{WORDS} [data-chart=pareto]"
Open = Callable[..., Any]


@pytest.fixture
def open_page(open_file: Open, report_file: Path) -> Open:
    """Open the report, its first plot drawn."""

    def opened(**look: Any) -> Any:
        page = open_file(report_file, **look)
        # On a narrow page the sentences before it fill the window.
        page.locator(PARETO).scroll_into_view_if_needed()
        page.wait_for_selector(f"{PARETO}[data-ready]")
        return page

    return opened


def mark_of(page: Any, run: str) -> Any:
    return page.locator(f'{PARETO} path[aria-label^="{run}:"]')


@pytest.mark.parametrize(
    ("scheme", "width", "ground"),
    [
        ("light", 1280, "rgb(255, 255, 255)"),
        ("dark", 1280, "rgb(21, 26, 34)"),
        ("dark", 390, "rgb(21, 26, 34)"),
    ],
)
def test_hovering_a_mark_shows_its_run(
    open_page: Open, scheme: str, width: int, ground: str
) -> None:
    page = open_page(scheme=scheme, width=width)
    mark_of(page, "04_lookahead / d3_t0.95_s4").hover()
    tooltip = page.locator("#vg-tooltip-element.visible")
    text = tooltip.inner_text()
    for shown in (
        "04_lookahead / d3_t0.95_s4",
        "95.8 % (93.9 to 97.2)",
        "above its control (shown)",
        "no difference seen",
    ):
        assert shown in text
    colour = tooltip.evaluate("one => getComputedStyle(one).backgroundColor")
    assert colour == ground
    box = tooltip.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= width, "the page itself does not scroll sideways"


def test_a_click_on_a_heading_sorts(open_page: Open) -> None:
    page = open_page()
    heading = page.locator(f"{WORDS} thead th", has_text="accuracy")
    column = f"{WORDS} tbody tr:not([hidden]) td:nth-child(3)"
    orders = {}
    for direction in ("ascending", "descending"):
        heading.locator("button").press("Enter")
        assert heading.get_attribute("aria-sort") == direction
        texts = page.locator(column).all_inner_texts()
        orders[direction] = [float(re.findall(r"[\d.]+", text)[0]) for text in texts]
    assert orders["ascending"] == sorted(orders["ascending"])
    assert orders["descending"] == orders["ascending"][::-1]
    assert len(orders["ascending"]) == 51


def test_repeated_computations_come_when_asked_for_and_names_are_found(open_page: Open) -> None:
    page = open_page()
    rows = page.locator(f"{WORDS} tbody tr:visible")
    assert rows.count() == 51
    page.check(f"{WORDS} [data-twins]")
    assert rows.count() == 58
    page.fill(f"{WORDS} [data-find]", "k1_")
    assert rows.count() == 4, "three, and the control that is the same as one of them"
    assert page.inner_text(f"{WORDS} [data-count]") == "4 of 58 runs shown."


def test_another_cost_and_view_draw_another_plot(open_page: Open) -> None:
    page = open_page()
    axis = page.locator(f"{PARETO} .role-axis-title")
    assert axis.get_by_text("layer-forwards per answer").count() == 1
    assert mark_of(page, "00_baseline / k3_first").count() == 0, "outside of the first view"
    page.get_by_label("everything").check(force=True)
    mark_of(page, "00_baseline / k3_first").wait_for()
    page.get_by_label("seconds, batch 32").check(force=True)
    axis.get_by_text("seconds per answer over the baseline's, batch size 32").wait_for()
    mark_of(page, "04_lookahead / d3_t0.95_s4").wait_for()
    assert mark_of(page, "00_baseline / k3_first").count() == 0, "not measured in turn"
    assert "were not measured so" in page.inner_text(f"{WORDS} .outside")


def test_colours_follow_the_system_while_the_page_is_open(open_page: Open) -> None:
    page = open_page()
    ground = "place => getComputedStyle(document.querySelector(place)).backgroundColor"
    picture = f"{PARETO} svg"
    assert page.evaluate(ground, picture) == "rgb(255, 255, 255)"
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(
        f"place => document.querySelector(place) && ({ground})(place) === 'rgb(21, 26, 34)'",
        arg=picture,
    )


def test_items_that_flipped_can_be_read(open_page: Open) -> None:
    page = open_page(width=390)
    items = page.locator(f"{WORDS} article.item")
    assert items.count() == 4
    page.click(f"{WORDS} .more")
    assert items.count() == 24
    first = items.first.inner_text()
    assert "How many lamps" in first and "first differing step: pass" in first
    assert "<|im_start|>" not in first
    link = items.first.get_by_role("link").get_attribute("href")
    asked = linked_answers(dict(parse_qsl(urlsplit(link).query)))
    assert asked is not None and asked.run == "00_baseline/word_problems/k1_first"
    assert f"item {asked.item}" in first and asked.other.startswith("00_baseline/word_problems/")
