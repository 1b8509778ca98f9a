"""`fastdllm generate`: answer one prompt, show the denoising, print one line of figures."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from fastdllm.commands.options import add_decoding_options, add_model_options, decoding_settings
from fastdllm.common.console import utf8_text
from fastdllm.common.errors import UserError

if TYPE_CHECKING:
    from fastdllm import BlockDiffusionModel, DecodingSettings, Generation, Step

MASK_GLYPH, LINE_BREAK_GLYPH = "▁", "⏎"


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

    from fastdllm.machine.threads import use_threads
    from fastdllm.model.loading import load_model, model_config
    from fastdllm.model.tokenizer import load_tokenizer, prompt_ids
    from fastdllm.policy import default_policy
    from fastdllm.tasks.generation import AnswerText

    use_threads(product=model_config(options.model, options.revision).largest_product)
    tokenizer = load_tokenizer(options.model, options.revision)
    ids = prompt_ids(tokenizer, prompt, chat_template=options.chat_template)
    model = load_model(
        options.model, device=options.device, dtype=options.dtype, revision=options.revision
    )
    policy = default_policy(settings, model.config.num_layers)
    console = Console(highlight=False, soft_wrap=True)
    view = StepView(console, tokenizer, ids) if options.show_steps else None
    generation, elapsed_s = _decode(model, ids, policy, view)
    text = AnswerText(tokenizer, until=None).text
    answer = text(generation.token_ids, finish_reason=generation.finish_reason)
    console.print(answer, markup=False)
    console.print(stats_line(generation, elapsed_s, model, settings), style="dim", markup=False)
    return 0


def _decode(
    model: BlockDiffusionModel,
    ids: tuple[int, ...],
    policy: Any,
    view: StepView | None,
) -> tuple[Generation, float]:
    """Decode one request; the clock runs in the decoder only, after an untimed first block.

    Raises:
        UserError: the prompt does not fit the model.
    """
    from fastdllm.decoding.loop import decode
    from fastdllm.decoding.sequence import Request
    from fastdllm.policy import PassKind

    request = [Request(ids)]
    begun = decode(model, request, policy)
    any(step.kind is PassKind.COMMIT or step.finished is not None for step in begun)
    del begun  # its cache is free for the timed run
    steps = decode(model, request, policy)
    elapsed_s = 0.0
    while True:
        started = time.perf_counter()
        step = next(steps)
        elapsed_s += time.perf_counter() - started
        if step.finished is not None and step.finished.error is not None:
            raise UserError(step.finished.error.removeprefix("request 0: "))
        if view is not None:
            view.show(step)
        if step.finished is not None:
            return step.finished, elapsed_s


def stats_line(
    generation: Generation, elapsed_s: float, model: BlockDiffusionModel, settings: DecodingSettings
) -> str:
    """One line: tokens, speed, passes, and what they ran on."""
    passes = generation.passes
    count = len(generation.token_ids)
    kinds = [
        f"{number} {name}"
        for name, number in (
            ("prefill", passes.prefill),
            ("full-block", passes.full_block),
            ("sub-block", passes.sub_block),
            ("commit", passes.commit),
            ("reused", passes.reused),
        )
        if number
    ]
    per_forward = generation.tokens_per_forward
    parts = [
        f"{count} tokens in {elapsed_s:.2f} s ({count / elapsed_s:.0f} tokens/s)",
        f"passes: {', '.join(kinds)}",
        *([f"{per_forward:.1f} tokens per forward"] if per_forward is not None else []),
        f"threshold {settings.threshold:g}",
        f"{model.device}, {str(model.dtype).removeprefix('torch.')}, batch 1",
    ]
    if generation.finish_reason == "length":
        parts.append(f"truncated at max_new_tokens {settings.max_new_tokens}")
    return " | ".join(parts)


class StepView:
    """Prints a line per pass: its kind, where it worked, and the answer with its gaps."""

    def __init__(self, console: Console, tokenizer: Any, prompt: tuple[int, ...]) -> None:
        self.console, self.tokenizer = console, tokenizer
        is_ascii = console.options.ascii_only
        self.mask, self.line_break = ("_", "|") if is_ascii else (MASK_GLYPH, LINE_BREAK_GLYPH)
        self.prompt_length = len(prompt)
        self.known: dict[int, int] = {}
        self.number = 0

    def show(self, step: Step) -> None:
        """Print the pass of one step; tokens that it committed are bold."""
        if step.kind is None:
            return
        self.number += 1
        self.known.update(zip(step.positions, step.tokens, strict=True))
        place = f"{step.block}" if step.sub_block is None else f"{step.block}.{step.sub_block}"
        lowest = f"{min(step.confidences):.2f}" if step.confidences else "    "
        line = Text(f"{self.number:>3} {step.kind.value:<10} {place:>5} {lowest}  ", style="dim")
        for position in range(self.prompt_length, max(self.known, default=-1) + 1):
            if position not in self.known:
                line.append(self.mask, style="dim")
                continue
            text = self.tokenizer.decode([self.known[position]]).replace("\n", self.line_break)
            fresh = position in step.positions
            line.append(text, style="bold green" if fresh else "not dim")
        self.console.print(line)
