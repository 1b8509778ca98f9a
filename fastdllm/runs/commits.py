"""When each token of an answer was committed, with which confidence, and what policies measured.

Follows the steps of the decoder; knows nothing of models or files. Confidences of committed tokens
are kept as a histogram, fine where thresholds lie.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass

from fastdllm.decoding.loop import Step
from fastdllm.policy import PassKind

# Of a relative change; more would be rounding noise.
DIGITS = 6
# A confidence belongs to the bin whose lower edge is the last one that it reaches.
EDGES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0)
BINS = len(EDGES) - 1


@dataclass(frozen=True, slots=True)
class Course:
    """How one answer came about; both fields as in `Answer`."""

    committed_at: tuple[int, ...]
    input_changes: tuple[tuple[int | float | None, ...], ...] | None


class Commits:
    """Follows the sequences in flight, and counts the confidences of finished answers."""

    def __init__(self) -> None:
        self._passes: Counter[int] = Counter()
        self._committed: dict[int, dict[int, tuple[int, float | None]]] = {}
        self._changes: dict[int, list[tuple[int | float | None, ...]]] = {}
        self._counts = [0] * BINS

    @property
    def confidence_counts(self) -> tuple[int, ...]:
        """Tokens of the finished answers by bin, without those that no threshold judged."""
        return tuple(self._counts)

    def add(self, step: Step) -> None:
        """Record what one pass of one sequence did; the prefill has number 0."""
        if step.kind is not None and step.kind is not PassKind.PREFILL:
            self._passes[step.request] += 1
        number = self._passes[step.request]
        confidences = step.confidences or (None,) * len(step.positions)
        committed = self._committed.setdefault(step.request, {})
        for position, confidence in zip(step.positions, confidences, strict=True):
            committed[position] = (number, confidence)
        if step.input_changes:
            changes = (round(c, DIGITS) if math.isfinite(c) else None for c in step.input_changes)
            self._changes.setdefault(step.request, []).append((number, *changes))

    def close(self, request: int, prompt_length: int, n_tokens: int) -> Course:
        """Return how a finished answer came about, and count its confidences.

        Tokens committed after the answer's end are not counted.
        """
        committed = self._committed.pop(request)
        answer = [committed[at] for at in range(prompt_length, prompt_length + n_tokens)]
        for _, confidence in answer:
            if confidence is not None:
                self._counts[bin_of(confidence)] += 1
        changes = self._changes.pop(request, None)
        return Course(
            committed_at=tuple(number for number, _ in answer),
            input_changes=None if changes is None else tuple(changes),
        )


def bin_of(confidence: float) -> int:
    """Return the bin of a confidence; 1, and what rounding puts above it, is in the last one."""
    return min(bisect_right(EDGES, confidence), BINS) - 1
