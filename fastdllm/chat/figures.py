"""What a terminal shows of one decoding: a line per pass, and one line of figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from fastdllm import DecodingSettings, Generation, Step
    from fastdllm.model.fused import FusedModel

MASK_GLYPH, LINE_BREAK_GLYPH = "▁", "⏎"
_CONTROLS = {
    code: (0x2400 + code if code < 0x20 else 0x2421 if code == 0x7F else 0xFFFD)
    for code in (*range(0x20), *range(0x7F, 0xA0))
    if chr(code) not in "\n\t"
}


def stats_line(
    generation: Generation,
    elapsed_s: float,
    model: FusedModel,
    settings: DecodingSettings,
    *,
    batch: str = "batch 1",
) -> str:
    """One line: tokens, speed, passes, and what they ran on, in words of `batch` with whom."""
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
        f"{count} tokens in {elapsed_s:.2f} s"
        + (f" ({count / elapsed_s:.0f} tokens/s)" if elapsed_s > 0 else ""),
        f"passes: {', '.join(kinds)}",
        *([f"{per_forward:.1f} tokens per forward"] if per_forward is not None else []),
        f"threshold {settings.threshold:g}",
        f"{model.device}, {str(model.dtype).removeprefix('torch.')}, {batch}",
    ]
    if generation.finish_reason == "length":
        parts.append(f"truncated at max_new_tokens {settings.max_new_tokens}")
    return " | ".join(parts)


def mask_glyph(console: Console) -> str:
    """Return what stands for a mask, in letters that the terminal has."""
    return "_" if console.options.ascii_only else MASK_GLYPH


def visible(text: str) -> str:
    """Return text with control characters shown, not sent, but for line breaks and tabs.

    A model may write what moves the cursor of a terminal or sets its title.
    """
    return text.translate(_CONTROLS)


class StepView:
    """Prints a line per pass: its kind, where it worked, and the answer with its gaps."""

    def __init__(self, console: Console, tokenizer: Any, prompt: tuple[int, ...]) -> None:
        self.console, self.tokenizer = console, tokenizer
        self.mask = mask_glyph(console)
        self.line_break = "|" if console.options.ascii_only else LINE_BREAK_GLYPH
        self.prompt_length = len(prompt)
        self.known: dict[int, str] = {}  # what is shown of a token, by position
        self.number = 0

    def show(self, step: Step) -> None:
        """Print the pass of one step; tokens that it committed are bold."""
        if step.kind is None:
            return
        self.number += 1
        self.known.update(zip(step.positions, map(self._text, step.tokens), strict=True))
        place = f"{step.block}" if step.sub_block is None else f"{step.block}.{step.sub_block}"
        lowest = f"{min(step.confidences):.2f}" if step.confidences else "    "
        line = Text(f"{self.number:>3} {step.kind.value:<10} {place:>5} {lowest}  ", style="dim")
        for position in range(self.prompt_length, max(self.known, default=-1) + 1):
            if position not in self.known:
                line.append(self.mask, style="dim")
                continue
            fresh = position in step.positions
            line.append(self.known[position], style="bold green" if fresh else "not dim")
        self.console.print(line)

    def _text(self, token: int) -> str:
        return visible(self.tokenizer.decode([token])).replace("\n", self.line_break)
