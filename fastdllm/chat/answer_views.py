"""An answer on the screen while it is decoded: masks that fill in place, or text as it gets final.

On a terminal, lines without a mask before their end are printed once and scroll away as any other;
only what follows is drawn again, so that nothing depends on how far the screen reaches back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from fastdllm.chat.figures import mask_glyph, visible
from fastdllm.serving.partial import PartialAnswer

# The first bytes of a character, whose last ones are masked yet.
UNFINISHED = "\N{REPLACEMENT CHARACTER}"

TextOf = Callable[[Sequence[int]], str]


class AnswerView(Protocol):
    """Shows an answer; `show` after each pass, `finish` with its text when it has ended."""

    def show(self, answer: PartialAnswer) -> None: ...

    def finish(self, text: str) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class PlainView:
    """Prints text once it is final, for pipes and terminals that cannot move the cursor."""

    def __init__(self, console: Console, text_of: TextOf) -> None:
        self._console, self._text_of = console, text_of
        self._printed = ""

    def show(self, answer: PartialAnswer) -> None:
        self._print(self._text_of(answer.known).rstrip(UNFINISHED))

    def finish(self, text: str) -> None:
        if not text.startswith(self._printed):
            # A tokenizer may write a token otherwise, depending on what follows it.
            self._write("\n")
            self._printed = ""
        self._print(text)
        self._write("\n")

    def _print(self, text: str) -> None:
        if text.startswith(self._printed):
            self._write(text[len(self._printed) :])
            self._printed = text

    def _write(self, text: str) -> None:
        if self._console.is_terminal:
            text = visible(text)
        self._console.file.write(text)
        self._console.file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and self._printed:
            self._write("\n")


class LiveView:
    """Draws the answer with its masks, in place."""

    def __init__(self, console: Console, text_of: TextOf) -> None:
        self._console, self._text_of = console, text_of
        self._mask = mask_glyph(console)
        self._width = console.width  # of this answer: its lines are counted
        self._printed = 0  # lines that are final
        self._live = Live(
            console=console, auto_refresh=False, transient=True, vertical_overflow="crop"
        )

    def show(self, answer: PartialAnswer) -> None:
        *final, last = self._lines(self._text_of(answer.known))
        self._print(final)
        for run in answer.open:
            tokens = [token for token in run if token is not None]
            if tokens:
                last.append(visible(self._text_of(tokens)))
            else:
                last.append(self._mask * len(run), style="dim")
        self._live.update(last, refresh=True)

    def finish(self, text: str) -> None:
        self._live.update(Text(""), refresh=True)
        self._print(self._lines(text))

    def _lines(self, text: str) -> list[Text]:
        shown = Text(visible(text))
        return list(shown.wrap(self._console, self._width)) or [Text("")]

    def _print(self, lines: Sequence[Text]) -> None:
        """Print those of the lines that are not on the screen yet."""
        for line in lines[self._printed :]:
            self._console.print(line)
        self._printed = max(self._printed, len(lines))

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()
