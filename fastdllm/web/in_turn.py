"""Answers that are decoded one after the other, and shown side by side.

In turn, so that none costs another one time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from fastdllm.traces.record import Trace
from fastdllm.web.answer_words import AnswerWords
from fastdllm.web.answering import WatchedAnswer
from fastdllm.web.denoising_panel import DenoisingPanel

LETTERS = ("A", "B")


async def decoded_in_turn(
    answers: Sequence[WatchedAnswer],
    panel: DenoisingPanel,
    words: AnswerWords,
    problem: Callable[[Sequence[Trace]], str | None] = lambda _: None,
) -> AsyncGenerator[tuple[str, *tuple[Any, ...]]]:
    """Decode answers, and yield a line of words and the values of the panel.

    Once one is stopped, those after it are not begun.

    Args:
        problem: why the whole traces are not to stay on the page; None if they are.
    """
    names = LETTERS if len(answers) > 1 else ("",)
    for answer, name in zip(answers, names, strict=True):
        # Untimed, so that none has to begin with memory that was never used.
        yield f"{name} waiting".strip(), *panel.while_decoding(answers)
        await answer.warm_up()
        async with aclosing(answer.follow()) as updates:
            async for _ in updates:
                line = f"{name} {words.progress(answer)}".strip()
                yield line, *panel.while_decoding(answers)
        if words.is_stopped(answer):
            break
    traces = await asyncio.to_thread(_traces_of, answers)
    reason = problem(traces)
    if reason is not None:
        yield reason, *panel.empty()
        return
    view = await asyncio.to_thread(panel.of_traces, answers[0].name, traces)
    yield _line(answers, names, words), *view


def _traces_of(answers: Sequence[WatchedAnswer]) -> list[Trace]:
    """Return the traces, which check themselves."""
    return [answer.trace() for answer in answers]


def _line(answers: Sequence[WatchedAnswer], names: Sequence[str], words: AnswerWords) -> str:
    done = [(name, a) for name, a in zip(names, answers, strict=True) if a.generation is not None]
    lines = [f"{name} {words.figures(answer)}".strip() for name, answer in done]
    if len(done) > 1:
        was_alone = all(answer.was_alone for _, answer in done)
        lines.append(
            "decoded one after the other"
            if was_alone
            else "others were answered meanwhile, so the seconds do not compare"
        )
    return "\n\n".join(lines)
