"""`fastdllm generate`: answer one prompt, show the denoising, print one line of figures."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fastdllm.chat.figures import StepView, stats_line, visible
from fastdllm.commands.options import (
    add_decoding_options,
    add_model_options,
    decoding_settings,
    loaded_model,
    loaded_tokenizer,
)
from fastdllm.common.console import utf8_text
from fastdllm.common.errors import UserError
from fastdllm.common.files import check_place

if TYPE_CHECKING:
    from fastdllm import BlockDiffusionModel, Generation, Request
    from fastdllm.traces.recording import Recording


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("prompt", help="the question; - reads it from standard input")
    parser.add_argument(
        "--show-steps", action="store_true", help="print each denoising step as it happens"
    )
    parser.add_argument(
        "--chat-template",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="wrap the prompt as a user's turn (default: yes)",
    )
    parser.add_argument(
        "--trace", type=Path, metavar="FILE", help="write what each step did to FILE, as JSON"
    )
    add_model_options(parser)
    add_decoding_options(parser)


def run(options: argparse.Namespace) -> int:
    """Decode one prompt."""
    if options.prompt == "-" and sys.stdin is None:
        raise UserError("standard input is closed; give the prompt as an argument")
    typed = sys.stdin.read() if options.prompt == "-" else options.prompt
    prompt = utf8_text(typed, "the prompt")
    if not prompt.strip():
        raise UserError("the prompt is empty; give a question, or - to read one from a pipe")
    settings = decoding_settings(options)
    if options.trace is not None:
        check_place(options.trace)

    from fastdllm.decoding.sequence import Request
    from fastdllm.model.tokenizer import prompt_ids
    from fastdllm.policy import default_policy
    from fastdllm.tasks.generation import AnswerText

    tokenizer = loaded_tokenizer(options, for_one_prompt=True)
    ids = prompt_ids(tokenizer, prompt, chat_template=options.chat_template)
    model = loaded_model(options)
    policy = default_policy(settings, model.config.num_layers)
    console = Console(highlight=False, soft_wrap=True)
    view = StepView(console, tokenizer, ids) if options.show_steps else None
    request, recording = Request(ids), None
    if options.trace is not None:
        from fastdllm.traces.recording import RUNNERS_UP, TraceRecorder

        request = Request(ids, runners_up=RUNNERS_UP)
        recorder = TraceRecorder(model, tokenizer, options.model, options.revision)
        recording = recorder.start(request, policy)
    generation, elapsed_s = _decode(model, request, policy, view, recording)
    text = AnswerText(tokenizer, until=None).text
    answer = text(generation.token_ids, finish_reason=generation.finish_reason)
    console.print(visible(answer) if console.is_terminal else answer, markup=False)
    console.print(stats_line(generation, elapsed_s, model, settings), style="dim", markup=False)
    if recording is not None:
        from fastdllm.traces.record import write_trace

        write_trace(options.trace, recording.trace())
    return 0


def _decode(
    model: BlockDiffusionModel,
    request: Request,
    policy: Any,
    view: StepView | None,
    recording: Recording | None,
) -> tuple[Generation, float]:
    """Decode one request; the clock runs in the decoder only, after an untimed first block.

    Raises:
        UserError: the prompt does not fit the model.
    """
    from fastdllm.decoding.loop import decode
    from fastdllm.policy import PassKind

    begun = decode(model, [request], policy)
    any(step.kind is PassKind.COMMIT or step.finished is not None for step in begun)
    del begun  # its cache is free for the timed run
    steps = decode(model, [request], policy)
    elapsed_s = 0.0
    while True:
        started = time.perf_counter()
        step = next(steps)
        elapsed_s += time.perf_counter() - started
        if step.finished is not None and step.finished.error is not None:
            raise UserError(step.finished.error)
        if view is not None:
            view.show(step)
        if recording is not None:
            recording.add(step, elapsed_s)
        if step.finished is not None:
            return step.finished, elapsed_s
