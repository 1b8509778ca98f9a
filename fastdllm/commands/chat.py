"""`fastdllm chat`: talk to a model in the terminal, or through a pipe."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console

from fastdllm.commands.options import (
    add_decoding_options,
    add_model_options,
    decoding_settings,
    loaded_model,
    loaded_tokenizer,
)
from fastdllm.common.errors import UserError
from fastdllm.common.paths import state_home

if TYPE_CHECKING:
    from fastdllm import DecodingSettings, Step
    from fastdllm.serving.service import Service

DUMB = ("dumb", "unknown", "")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--system", default="", metavar="TEXT", help="the system text")
    add_model_options(parser)
    add_decoding_options(parser)


def run(options: argparse.Namespace) -> int:
    """Talk until the input ends."""
    if sys.stdin is None:
        raise UserError("standard input is closed; a chat reads its questions there")
    settings = decoding_settings(options)
    is_interactive = sys.stdin.isatty()
    is_terminal = is_interactive and sys.stdout.isatty()
    is_smart = is_terminal and os.environ.get("TERM", "").lower() not in DUMB
    if is_smart:
        _check_packages()

    from fastdllm.chat.talk import Talk
    from fastdllm.serving.service import Service

    tokenizer = loaded_tokenizer(options)
    model = loaded_model(options)
    console = Console(highlight=False, soft_wrap=not is_smart)
    with Service(model, slots=1) as service:
        talk = Talk(
            model,
            tokenizer,
            settings,
            _decoder(service),
            console,
            is_live=is_smart,
            is_interactive=is_interactive,
        )
        if options.system:
            talk.take(f"/system {options.system}")
        if is_terminal:
            console.print(
                f"{options.model} on {model.device}. /help lists the commands; exit or Ctrl-D "
                "ends.",
                style="dim",
                markup=False,
            )
        talk.run(_reader(is_smart=is_smart, is_terminal=is_terminal))
    return 0


def _decoder(service: Service) -> Callable[[tuple[int, ...], DecodingSettings], Iterator[Step]]:
    """Return what decodes one prompt of the chat; the blocks of earlier turns are kept for it."""
    from fastdllm.decoding.sequence import Request

    def steps(ids: tuple[int, ...], settings: DecodingSettings) -> Iterator[Step]:
        stream = service.submit(Request(ids), settings)
        try:
            yield from stream
        finally:
            stream.cancel()

    return steps


def _check_packages() -> None:
    """Refuse to start where the terminal's package is missing.

    Raises:
        UserError: saying how to install it.
    """
    try:
        import prompt_toolkit  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f"no module {error.name}, which the chat at a terminal needs; type: "
            "pip install -c constraints.txt -e '.[chat]' (or ask through a pipe: echo QUESTION | "
            "fastdllm chat)"
        ) from None


def _reader(*, is_smart: bool, is_terminal: bool) -> Callable[[], str | None]:
    """Return what reads the next line; None at the end of the input."""
    if is_smart:
        from fastdllm.chat.line_input import LineInput
        from fastdllm.chat.talk import WITH_PATHS, offers

        history = state_home() / "fastdllm" / "chat_history"
        return LineInput(offers, WITH_PATHS, history=history).read

    def read() -> str | None:
        if is_terminal:
            sys.stdout.write("> ")
            sys.stdout.flush()
        line = sys.stdin.readline()
        return line.removesuffix("\n").removesuffix("\r") if line else None

    return read
