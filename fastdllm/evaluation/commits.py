"""When each token of an answer was committed, and with which confidence.

Listens to the steps of the decoder; knows nothing of models or files.
"""

from __future__ import annotations

from collections import Counter

from fastdllm.decoding import Step
from fastdllm.evaluation.confidences import BINS, bin_of
from fastdllm.policy import PassKind


class Commits:
    """Follows the sequences in flight, and counts the confidences of finished answers."""

    def __init__(self) -> None:
        self._passes: Counter[int] = Counter()
        self._committed: dict[int, dict[int, tuple[int, float | None]]] = {}
        self._counts = [0] * BINS

    @property
    def confidence_counts(self) -> tuple[int, ...]:
        """Tokens of the finished answers by bin; those that no threshold judged are in none."""
        return tuple(self._counts)

    def add(self, step: Step) -> None:
        """Note what one pass of one sequence committed; the prefill has number 0."""
        if step.kind is not None and step.kind is not PassKind.PREFILL:
            self._passes[step.request] += 1
        number = self._passes[step.request]
        confidences = step.confidences or (None,) * len(step.positions)
        own = self._committed.setdefault(step.request, {})
        for position, confidence in zip(step.positions, confidences, strict=True):
            own[position] = (number, confidence)

    def close(self, request: int, prompt_length: int, n_tokens: int) -> tuple[int, ...]:
        """Of each token of a finished answer, the number of the pass that committed it.

        What was committed behind the answer's end counts nowhere.
        """
        own = self._committed.pop(request)
        answer = [own[position] for position in range(prompt_length, prompt_length + n_tokens)]
        for _, confidence in answer:
            if confidence is not None:
                self._counts[bin_of(confidence)] += 1
        return tuple(number for number, _ in answer)
