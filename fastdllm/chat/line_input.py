"""Lines that people type at a terminal: editing, history and completion, from prompt-toolkit."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.styles import Style

from fastdllm.common.console import notice

PROMPT = "> "
# No colour but the terminal's own, whatever its theme: the menu is told by reversed video.
STYLE = Style.from_dict(
    {
        "prompt": "bold ansigreen",
        "completion-menu": "noinherit",
        "completion-menu.completion": "noinherit",
        "completion-menu.completion.current": "noinherit reverse",
        "completion-menu.meta.completion": "noinherit",
        "completion-menu.meta.completion.current": "noinherit reverse",
        "scrollbar.background": "noinherit",
        "scrollbar.button": "noinherit reverse",
    }
)

# The words so far (of which the last is being typed) to what it may become, each with a hint.
Offers = Callable[[list[str]], Iterable[tuple[str, str]]]


class WordCompleter(Completer):
    """Completes the word being typed; after `path_commands`, the name of a file."""

    def __init__(self, offers: Offers, path_commands: Iterable[str]) -> None:
        self._offers, self._path_commands = offers, tuple(path_commands)
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterator[Completion]:
        line = document.text_before_cursor
        command, space, rest = line.partition(" ")
        if space and command in self._path_commands:
            yield from self._paths.get_completions(Document(rest), event)
            return
        words = [*line.split(), ""] if line[-1:].isspace() or not line else line.split()
        for word, hint in self._offers(words):
            if word.startswith(words[-1]):
                yield Completion(word, start_position=-len(words[-1]), display_meta=hint)


class LineInput:
    """Reads lines with editing and history.

    history: the file that keeps them, which only its owner may read; None keeps none.
    """

    def __init__(
        self, offers: Offers, path_commands: Iterable[str], *, history: Path | None
    ) -> None:
        no_color = bool(os.environ.get("NO_COLOR"))
        self._session: PromptSession[str] = PromptSession(
            FormattedText([("class:prompt", PROMPT)]),
            completer=WordCompleter(offers, path_commands),
            complete_while_typing=False,
            history=_history(history),
            style=STYLE,
            color_depth=ColorDepth.DEPTH_1_BIT if no_color else ColorDepth.DEPTH_4_BIT,
            key_bindings=_keys(),
            multiline=True,
            prompt_continuation="  ",
            enable_suspend=True,
        )

    def read(self) -> str | None:
        """Return the next line, which may hold line breaks; None at the end (Ctrl-D).

        Raises:
            KeyboardInterrupt: Ctrl-C; what was typed is dropped.
        """
        try:
            return self._session.prompt()
        except EOFError:
            return None


def _keys() -> KeyBindings:
    """Enter sends, Alt-Enter breaks the line."""
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def _history(path: Path | None) -> History:
    """The history in a file; without one, in memory."""
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.fchmod(handle, 0o600)
        finally:
            os.close(handle)
    except OSError as error:
        notice(f"{path}: no history is kept: {error.strerror}")
        return InMemoryHistory()
    return FileHistory(str(path))
