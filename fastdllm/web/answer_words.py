"""What the page says of an answer: its text with masks, where it waits, and its figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastdllm.chat.figures import MASK_GLYPH, stats_line
from fastdllm.tasks.generation import AnswerText
from fastdllm.web.answering import WatchedAnswer

if TYPE_CHECKING:
    from fastdllm.endpoint.served import Served


class AnswerWords:
    """Words for the answers of one model."""

    def __init__(self, served: Served) -> None:
        self._model = served.model
        self._text = AnswerText(served.tokenizer, until=None).text

    def so_far(self, answer: WatchedAnswer) -> str:
        """Return what is known of an answer by now, with masks where the block has gaps."""
        parts = [self._text(answer.partial.known)]
        for run in answer.partial.open:
            tokens = [token for token in run if token is not None]
            parts.append(self._text(tokens) if tokens else MASK_GLYPH * len(run))
        return "".join(parts)

    def text(self, answer: WatchedAnswer) -> str:
        """Return the text of an answer that has ended."""
        done = answer.generation
        assert done is not None
        return self._text(done.token_ids, finish_reason=done.finish_reason)

    def is_stopped(self, answer: WatchedAnswer) -> bool:
        """Whether the visitor stopped it."""
        done = answer.generation
        return done is not None and done.finish_reason == "cancelled"

    def progress(self, answer: WatchedAnswer) -> str:
        """Return where an answer is that is not whole."""
        if answer.place:
            return f"place {answer.place} in the queue"
        return "decoding" if answer.seconds else "waiting"

    def figures(self, answer: WatchedAnswer) -> str:
        """Return the figures of an answer that has ended."""
        done = answer.generation
        assert done is not None
        batch = "batch 1" if answer.was_alone else "passes shared with other visitors"
        line = stats_line(done, answer.seconds, self._model, answer.settings, batch=batch)
        return f"stopped | {line}" if self.is_stopped(answer) else line
