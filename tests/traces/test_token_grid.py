"""A trace as a grid: blocks, what is known after a step, counters, differences."""

from __future__ import annotations

import json

from fastdllm.traces.palette import (
    BY_CONFIDENCE,
    BY_STEP,
    CONFIDENCE_EDGES,
    THEMES,
    confidence_level,
    ink_on,
)
from fastdllm.traces.record import Trace
from fastdllm.traces.token_grid import TokenGrid, differing, step_words
from fastdllm.traces.trace_page import component_js
from tests.support.made_up_traces import made_up_trace

TRACE = Trace.model_validate_json(json.dumps(made_up_trace()))


def test_blocks_begin_after_the_prompt() -> None:
    first, second = TokenGrid(TRACE).blocks()
    assert [len(sub_block) for sub_block in first] == [5, 8, 8, 8]
    assert [sub_block[0] for sub_block in second] == [29, 37, 45, 53]


def test_a_token_is_known_from_its_step_on() -> None:
    grid = TokenGrid(TRACE)
    assert grid.cell(1, 1) is None
    cell = grid.cell(1, 2)
    assert cell is not None and (cell.token, cell.step, cell.step_level) == (101, 2, 0)
    last = max(grid.cells[index].step for index in range(29))
    assert {c.step_level for i, c in grid.cells.items() if i < 29 and c.step == last} == {6}


def test_the_counters_after_the_last_step_are_those_of_the_answer() -> None:
    words = TokenGrid(TRACE).counters(len(TRACE.steps))
    assert f"{len(TRACE.answer.ids)} tokens" in words
    assert f"{TRACE.tokens_per_forward:.2f} tokens per forward" in words
    passes = TRACE.passes
    layers = passes.layer_forwards_computed + passes.layer_forwards_skipped
    assert f"saved {100 * passes.layer_forwards_skipped / layers:.1f} %" in words


def test_before_the_first_step_nothing_is_known() -> None:
    assert TokenGrid(TRACE).counters(0) == "0 tokens"
    assert step_words(TRACE, 0) == f"Before the first of {len(TRACE.steps)} steps"
    assert step_words(TRACE, 4) == "Step 4 of 32: reused pass writes 1 token"
    assert step_words(TRACE, 99) == f"Done after {len(TRACE.steps)} steps"


def test_answers_differ_where_tokens_do_or_only_one_has_any() -> None:
    short = TRACE.answer.model_copy(update={"ids": (*TRACE.answer.ids[:3], 7)})
    other = TRACE.model_copy(update={"answer": short})
    assert differing(TRACE, other) == set(range(3, len(TRACE.answer.ids)))
    assert differing(TRACE, TRACE) == frozenset()


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_can_be_read_on_every_colour() -> None:
    assert all(contrast(colour, ink_on(colour)) >= 4.5 for colour in (*BY_STEP, *BY_CONFIDENCE))
    for theme in THEMES.values():
        for ground in ("ground", "card", "mask", "plain"):
            assert contrast(theme["ink"], theme[ground]) >= 4.5
            assert contrast(theme["soft"], theme[ground]) >= 4.5


def test_steps_get_lighter_so_that_they_can_be_told_without_hues() -> None:
    lightness = [luminance(colour) for colour in BY_STEP]
    assert lightness == sorted(lightness)


def test_the_page_and_the_pictures_have_the_same_levels_of_confidence() -> None:
    assert f"CONFIDENCE_EDGES = {list(CONFIDENCE_EDGES)};" in component_js()


def test_levels_of_confidence() -> None:
    assert [confidence_level(p) for p in (0.0, 0.5, 0.89, 0.9, 0.998, 0.999, 1.0)] == [
        *(0, 1, 2, 3, 5, 6, 6)
    ]
