"""The chunk that is being decoded: how far it is, and whether there is time to finish it."""

from __future__ import annotations

import time

from fastdllm.runs.answer_records import Answer
from fastdllm.runs.progress import Progress
from fastdllm.runs.stopping import Stop


class ChunkInFlight:
    """Counts the answers of a chunk, and stops it if there is no time to finish it.

    The engine calls it between passes, so it is quick: its seconds are those of the chunk.

    pace_s: seconds per request of the chunk before; None for the first.
    """

    def __init__(
        self, progress: Progress, stop: Stop, n_requests: int, pace_s: float | None
    ) -> None:
        self._progress, self._stop = progress, stop
        self._n_requests, self._pace_s = n_requests, pace_s
        self._n_answered = 0
        self._started = time.monotonic()

    def answered(self, answer: Answer) -> None:
        """Count an answer that is complete."""
        self._n_answered += 1
        self._progress.answered(answer)

    def note(self, text: str) -> None:
        """Show a line to the person who watches."""
        self._progress.note(text)

    def step(self) -> None:
        """Note that a pass is done.

        Raises:
            Stopped: there is no time to finish the chunk, which is then lost.
        """
        self._stop.check(self._remaining_s)

    def _remaining_s(self) -> float | None:
        """Return a low estimate of the seconds left, from the chunk before and this one's answers.

        Requests are decoded side by side, so the first answers say little about the others: they
        count only once half of them are there.
        """
        elapsed_s = time.monotonic() - self._started
        open_requests = self._n_requests - self._n_answered
        estimates = []
        if self._pace_s is not None:
            estimates.append(max(0.0, self._pace_s * self._n_requests - elapsed_s))
        if self._n_answered >= open_requests:
            estimates.append(elapsed_s * open_requests / self._n_answered)
        return min(estimates, default=None)
