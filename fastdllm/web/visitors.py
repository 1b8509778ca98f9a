"""What all events of the page need: who caused one, refusals in words, and a way to stop.

A visitor is a tab of a browser. A refusal is the line that a command would print.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from fastdllm.common.errors import UserError
from fastdllm.web.answering import Answering

# Some five times the longest prompt that a model holds.
MOST_CHARACTERS = 200_000


# Of events: nothing of them is offered to programs, which have the endpoint.
EVENT: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
# Of those with one short result: without Gradio's queue, whose stream ends and begins anew between
# two events, and may then lose the first result of the second.
AT_ONCE: dict[str, Any] = {**EVENT, "queue": False}


def visitor_of(request: gr.Request) -> str:
    """Return the name of the tab that caused an event."""
    return str(request.session_hash)


def stop_button(answering: Answering) -> None:
    """Make a button that ends what is decoded for the visitor."""

    def stop(request: gr.Request) -> None:
        answering.stop(visitor_of(request))

    gr.Button("Stop", scale=1, min_width=80).click(stop, None, None, **AT_ONCE)


@contextmanager
def said_on_the_page() -> Iterator[None]:
    """Show a `UserError` to the visitor whose event is handled, as text."""
    try:
        yield
    except UserError as error:
        # Gradio takes a message for HTML.
        raise gr.Error(html.escape(str(error)), title="Refused", print_exception=False) from None


def check_question(text: str, system: str) -> None:
    """Refuse a question, or its system text, before anything is computed with it.

    Raises:
        UserError: the question is empty, or one of them is too long or no text.
    """
    if not text.strip():
        raise UserError("the question is empty; type one")
    for what, value in (("the question", text), ("the system text", system)):
        if len(value) > MOST_CHARACTERS:
            raise UserError(
                f"{what} has {len(value)} characters, and the page takes {MOST_CHARACTERS}; "
                "shorten it"
            )
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UserError(f"{what} holds half of a character; write it whole") from None
