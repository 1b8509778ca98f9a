"""The denoising view as pictures for slides: PNG of one step, GIF of all, drawn with Pillow.

Pillow comes with the extra `chat`. Text is in DejaVu Sans Mono where the machine has it, else in
the font that Pillow brings; a character that the font lacks is drawn as an empty box.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fastdllm.common.errors import UserError
from fastdllm.traces import palette
from fastdllm.traces.token_grid import TokenCell, TokenGrid, differing, step_words

if TYPE_CHECKING:
    from fastdllm.traces.record import Trace

WIDTH = 1280  # pixels, of one answer or of two side by side
MARGIN, GAP, PADDING = 24, 5, 6
TEXT_SIZE, LABEL_SIZE, CAPTION_SIZE = 20, 12, 18
PROMPT_LINES, PROMPT_CHARACTERS = 4, 2000  # the last ones are shown
MOST_PIXELS = 20_000  # of the height; a picture of more is of no use, and fills the memory
LAST_FRAME_S = 3.0
_UNCHANGED = 255  # index in the palette of a GIF

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Box = tuple[int, int, int, int]


def png(
    traces: Sequence[Trace], *, step: int | None = None, colour: str = "step", theme: str = "light"
) -> bytes:
    """Return the state after one step (default: the last; 0: before the first) as PNG.

    traces: one, or two to show side by side. colour: what the colour of a token says, its `step`
        or its `confidence`. theme: light or dark.
    """
    pictures = Pictures(traces, colour=colour, theme=theme)
    buffer = io.BytesIO()
    pictures.draw(pictures.last if step is None else step).save(buffer, "PNG")
    return buffer.getvalue()


def gif(
    traces: Sequence[Trace],
    *,
    colour: str = "step",
    theme: str = "light",
    steps_per_s: float = 4.0,
) -> bytes:
    """Return the animation from before the first step to the last as GIF; the arguments of `png`.

    The last frame stays for three seconds, then it starts again.
    """
    pictures = Pictures(traces, colour=colour, theme=theme)
    first, last = pictures.draw(0), pictures.draw(pictures.last)
    # One palette for all frames, with one colour left for what a frame leaves as it was.
    both = Image.new("RGB", (WIDTH, 2 * pictures.height))
    both.paste(first)
    both.paste(last, (0, pictures.height))
    colours = both.quantize(_UNCHANGED, dither=Image.Dither.NONE)

    def indices(image: Image.Image) -> NDArray[np.uint8]:
        return np.asarray(image.quantize(palette=colours, dither=Image.Dither.NONE))

    def frames() -> Iterator[Image.Image]:
        image, before = first.copy(), indices(first)
        for step in range(1, pictures.last + 1):
            pictures.advance(image, step)
            after = indices(image)
            frame = Image.fromarray(np.where(after == before, np.uint8(_UNCHANGED), after))
            frame.putpalette(colours.getpalette() or ())
            frame.info["transparency"] = _UNCHANGED
            yield frame
            before = after

    milliseconds = [round(1000 / steps_per_s)] * pictures.last + [round(1000 * LAST_FRAME_S)]
    buffer = io.BytesIO()
    # Pillow's own way to leave out what is unchanged looks at each pixel in Python.
    first.quantize(palette=colours, dither=Image.Dither.NONE).save(
        buffer,
        "GIF",
        save_all=True,
        append_images=frames(),
        duration=milliseconds,
        loop=0,
        optimize=False,
    )
    return buffer.getvalue()


@cache
def _font(size: int) -> Font:
    try:
        return ImageFont.truetype("DejaVuSansMono.ttf", size)
    except OSError:
        return ImageFont.load_default(size)


def _wrapped(text: str, size: int, width: int) -> list[str]:
    """Break a text into lines of at most `width` pixels: at a space, or else anywhere."""
    lines = []
    for paragraph in text.splitlines() or [""]:
        line = ""
        for character in paragraph:
            if line and _font(size).getlength(line + character) > width:
                stop = line.rfind(" ") if line.rfind(" ") > 0 else len(line)
                lines.append(line[:stop])
                line = line[stop:].lstrip(" ") if stop < len(line) else ""
            line += character
        lines.append(line)
    return lines


@dataclass(frozen=True, slots=True)
class _Placed:
    """A token's box in a picture, and its text in lines."""

    index: int
    box: Box
    lines: tuple[str, ...]


class _Column:
    """One answer in a picture: where its tokens, sub-blocks and blocks are, whatever the step."""

    def __init__(self, trace: Trace, left: int, width: int) -> None:
        self.trace, self.grid, self.left, self.width = trace, TokenGrid(trace), left, width
        tail = trace.prompt.text[-PROMPT_CHARACTERS:]
        prompt = _wrapped(_drawable(tail), LABEL_SIZE + 2, width)
        is_cut = len(prompt) > PROMPT_LINES or tail != trace.prompt.text
        more = "\u2026 " if is_cut else ""
        self.prompt = more + "\n".join(prompt[-PROMPT_LINES:])
        self.tokens: list[_Placed] = []
        self.sub_blocks: list[Box] = []
        self.blocks: list[Box] = []

    def place(self, top: int) -> int:
        """Lay out the grid from `top` on and return where it ends."""
        left, right = self.left + PADDING, self.left + self.width - PADDING
        y = top
        for block in self.grid.blocks():
            x, line, below = left, y + PADDING, y + PADDING
            for sub_block in block:
                sizes = [self._size(index, right - left - 2 * PADDING) for index in sub_block]
                wide = sum(width + GAP for width, _ in sizes) - GAP + 2 * PADDING
                if x > left and x + wide > right:
                    x, line = left, below
                box = self._place_row(sub_block, sizes, (x, line), right)
                x, below = box[2] + GAP, max(below, box[3] + GAP)
            self.blocks.append((self.left, y, self.left + self.width, below + PADDING - GAP))
            y = below + PADDING
        return y

    def _size(self, index: int, most: int) -> tuple[int, list[str]]:
        """Return the width of a token's box and the lines of its text."""
        lines = _wrapped(_drawable(self.grid.final_text(index)), TEXT_SIZE, most - 2 * PADDING)
        longest = max(_font(TEXT_SIZE).getlength(line) for line in lines)
        return max(30, int(longest) + 2 * PADDING), lines

    def _place_row(
        self,
        indices: Sequence[int],
        sizes: Sequence[tuple[int, list[str]]],
        corner: tuple[int, int],
        right: int,
    ) -> Box:
        """Lay out a sub-block, over several lines if it must be, and return its box."""
        left, y = corner[0] + PADDING, corner[1] + PADDING
        x, tallest, widest = left, 0, left
        for index, (width, lines) in zip(indices, sizes, strict=True):
            if x > left and x + width > right - PADDING:
                x, y, tallest = left, y + tallest + GAP, 0
            height = len(lines) * (TEXT_SIZE + 4) + LABEL_SIZE + PADDING
            self.tokens.append(_Placed(index, (x, y, x + width, y + height), tuple(lines)))
            tallest, widest = max(tallest, height), max(widest, x + width)
            x += width + GAP
        box = (*corner, widest + PADDING, y + tallest + PADDING)
        self.sub_blocks.append(box)
        return box


class Pictures:
    """Pictures of one size for all steps of one or two traces.

    last: the number of the last step.

    Raises:
        UserError: the answer is too long for a picture.
    """

    def __init__(
        self, traces: Sequence[Trace], *, colour: str = "step", theme: str = "light"
    ) -> None:
        self.colour, self.theme = colour, palette.THEMES[theme]
        width = (WIDTH - MARGIN * (len(traces) + 1)) // len(traces)
        self.columns = [
            _Column(trace, MARGIN + i * (width + MARGIN), width) for i, trace in enumerate(traces)
        ]
        self.last = max(len(trace.steps) for trace in traces)
        self.differing = differing(*traces) if len(traces) == 2 else frozenset()
        line = LABEL_SIZE + 6
        prompt = max(column.prompt.count("\n") + 1 for column in self.columns) * line
        self.captions_top = MARGIN + prompt + GAP
        # A line that says the step, and three of counters.
        self.grid_top = self.captions_top + CAPTION_SIZE + 3 * line + 3 * GAP
        self.height = max(column.place(self.grid_top) for column in self.columns) + MARGIN
        if self.height > MOST_PIXELS:
            raise UserError(
                f"the picture would be {self.height} pixels high, more than {MOST_PIXELS}; write a "
                "page (.html) instead"
            )

    def draw(self, step: int) -> Image.Image:
        """Return the state after a step as an RGB image."""
        image = Image.new("RGB", (WIDTH, self.height), self.theme["card"])
        pen = ImageDraw.Draw(image)
        soft = self.theme["soft"]
        for column in self.columns:
            pen.text((column.left, MARGIN), column.prompt, soft, _font(LABEL_SIZE + 2))
            for box in column.blocks:
                pen.rounded_rectangle(box, 8, outline=soft, width=2)
            for box in column.sub_blocks:
                pen.rounded_rectangle(box, 6, outline=self.theme["line"], width=1)
            self._draw_captions(pen, column, step)
            for placed in column.tokens:
                self._draw_token(pen, column.grid, placed, step)
        return image

    def advance(self, image: Image.Image, step: int) -> None:
        """Make the image of the step before `step` that of `step`."""
        pen = ImageDraw.Draw(image)
        pen.rectangle((0, self.captions_top, WIDTH, self.grid_top - 1), self.theme["card"])
        for column in self.columns:
            self._draw_captions(pen, column, step)
            for placed in column.tokens:
                cell = column.grid.cell(placed.index, step)
                if cell is not None and cell.step in (step - 1, step):
                    self._draw_token(pen, column.grid, placed, step)

    def _draw_captions(self, pen: ImageDraw.ImageDraw, column: _Column, step: int) -> None:
        left, y, small = column.left, self.captions_top, LABEL_SIZE + 2
        words = step_words(column.trace, step)
        pen.text((left, y), words, self.theme["ink"], _font(CAPTION_SIZE))
        lines = _wrapped(column.grid.counters(step), small, column.width)[:3]
        where = (left, y + CAPTION_SIZE + GAP)
        pen.text(where, "\n".join(lines), self.theme["soft"], _font(small))

    def _draw_token(
        self, pen: ImageDraw.ImageDraw, grid: TokenGrid, placed: _Placed, step: int
    ) -> None:
        left, top, right, bottom = placed.box
        cell = grid.cell(placed.index, step)
        if cell is None:
            pen.rounded_rectangle(placed.box, 4, self.theme["mask"], self.theme["line"])
            pen.line((left + 8, bottom - 14, right - 8, bottom - 14), self.theme["soft"], width=3)
            return
        ground, ink = self._colours(cell)
        outline, width = (self.theme["ink"], 4) if cell.step == step else (self.theme["line"], 1)
        pen.rounded_rectangle(placed.box, 4, ground, outline, width)
        for number, line in enumerate(placed.lines):
            where = (left + PADDING, top + 3 + number * (TEXT_SIZE + 4))
            pen.text(where, line, ink, _font(TEXT_SIZE))
            if grid.is_past(placed.index):
                y = where[1] + TEXT_SIZE // 2 + 2
                pen.line((left + 2, y, right - 2, y), ink, width=2)
        label = self._label(cell)
        if placed.index in self.differing:
            label = f"\u2260{label}"
            pen.rounded_rectangle((left + 2, top + 2, right - 2, bottom - 2), 3, outline=ink)
        pen.text((left + PADDING, bottom - LABEL_SIZE - 5), label, ink, _font(LABEL_SIZE))

    def _colours(self, cell: TokenCell) -> tuple[str, str]:
        if self.colour == "step":
            ground = palette.BY_STEP[cell.step_level]
        else:
            ground = palette.BY_CONFIDENCE[palette.confidence_level(cell.probability)]
        return ground, palette.ink_on(ground)

    def _label(self, cell: TokenCell) -> str:
        return str(cell.step if self.colour == "step" else int(100 * cell.probability + 1e-9))


def _drawable(text: str) -> str:
    """Make a token's text one that can be drawn: line breaks visible, no half of a character."""
    text = text.encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)
