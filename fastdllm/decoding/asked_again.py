"""Asks a policy again what it has decided, and refuses one that then decides otherwise.

What a policy decides for a sequence must follow from what it sees of that sequence. One that draws
at random, counts its calls, remembers, or looks at the other sequences of a pass gives answers that
depend on the batch, and on where a run was interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastdllm.decoding.rules import chosen_actions, violation
from fastdllm.policy import (
    LayerRange,
    PassKind,
    Policy,
    Predictions,
    SequenceState,
    SpanAction,
    SpanSignals,
)


def anew(policy: Policy) -> Policy:
    """Return the same policy, which has decided nothing yet."""
    return type(policy)(policy.settings, policy.parameters, policy.num_layers)


class AskedAgain(Policy):
    """Decides like `inner`; one that is made anew is asked about a sequence alone.

    Every method raises a PolicyViolation if its answer differs.

    every: of the decisions about single sequences, one in so many is asked again.
    """

    def __init__(self, inner: Policy, *, every: int = 1) -> None:
        super().__init__(inner.settings, inner.parameters, inner.num_layers)
        self.inner = inner
        self.layer_spans = inner.layer_spans
        self.keeps_proposals = inner.keeps_proposals or inner.keeps_logits
        self._every, self._decisions = every, 0

    def next_pass(self, state: SequenceState) -> PassKind:
        """The pass that the policy inside asks for."""
        kind = self.inner.next_pass(state)
        if self._due(1):
            self._check("next_pass", anew(self.inner).next_pass(state) == kind)
        return kind

    def window(self, state: SequenceState, kind: PassKind) -> tuple[int, int]:
        """The window of the policy inside."""
        window = self.inner.window(state, kind)
        if self._due(1):
            self._check("window", anew(self.inner).window(state, kind) == window)
        return window

    def span_actions(
        self, span: LayerRange, states: Sequence[SequenceState], signals: SpanSignals
    ) -> list[SpanAction]:
        """The actions of the policy inside."""
        measured = _Measured(signals)
        actions = chosen_actions(self.inner, span, states, measured)
        for index in self._due(len(states)):
            of_one = _OfOne(measured, index)
            alone = chosen_actions(anew(self.inner), span, [states[index]], of_one)
            self._check("span_actions", actions[index : index + 1] == alone)
        return actions

    def accept(self, predictions: Predictions, states: Sequence[SequenceState]) -> Tensor:
        """What the policy inside accepts."""
        # Before it is asked: it may write to what it is given.
        parts = {index: _of_one(predictions, index) for index in self._due(len(states))}
        accepted = self.inner.accept(predictions, states)
        if isinstance(accepted, Tensor) and accepted.shape == predictions.masked.shape:
            for index, part in parts.items():
                alone = anew(self.inner).accept(part, [states[index]])
                is_same = isinstance(alone, Tensor) and alone.tolist() == [accepted[index].tolist()]
                self._check("accept", is_same)
        return accepted

    def _due(self, count: int) -> range:
        """Which of the next `count` decisions are asked again."""
        first = -self._decisions % self._every
        self._decisions += count
        return range(first, count, self._every)

    def _check(self, method: str, is_same: bool) -> None:
        if not is_same:
            raise violation(
                self.inner,
                f"{method} decided otherwise when asked again about one sequence alone; it may not "
                "draw at random, keep a count or a memory, or look at other sequences",
            )


class _Measured(SpanSignals):
    """Signals that are measured once, however often they are asked for."""

    def __init__(self, signals: SpanSignals) -> None:
        self._signals = signals
        self._changes: list[float] | None = None

    def input_change(self) -> list[float]:
        if self._changes is None:
            self._changes = self._signals.input_change()
        return list(self._changes)


class _OfOne(SpanSignals):
    """The signals of one of several sequences."""

    def __init__(self, signals: SpanSignals, index: int) -> None:
        self._signals, self._index = signals, index

    def input_change(self) -> list[float]:
        return [self._signals.input_change()[self._index]]


def _of_one(predictions: Predictions, index: int) -> Predictions:
    row = slice(index, index + 1)
    return Predictions(
        tokens=predictions.tokens[row].clone(),
        confidence=predictions.confidence[row].clone(),
        masked=predictions.masked[row].clone(),
        offsets=predictions.offsets[row].clone(),
    )
