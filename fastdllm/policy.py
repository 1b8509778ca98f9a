"""What an experiment may decide while a sequence is decoded, and the published rules.

A policy sees the state of one sequence and chooses (1) the next pass, (2) for each span of layers
that it names: compute, reuse the output, or add the stored delta, (3) which masked positions to
commit. It never touches caches, batches or loops, and needs no torch import: tensors reach it
through `Predictions`. decoding/rules.py refuses what block diffusion does not allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from fastdllm.settings import DecodingSettings
from fastdllm.validation import StrictModel

if TYPE_CHECKING:
    from torch import Tensor

LayerRange = tuple[int, int]


class PassKind(StrEnum):
    """The kinds of pass; `reused` runs no layer and answers from the last computed logits."""

    PREFILL = "prefill"
    FULL_BLOCK = "full_block"
    SUB_BLOCK = "sub_block"
    COMMIT = "commit"
    REUSED = "reused"


class SpanAction(StrEnum):
    """What happens to one span of layers in one pass of one sequence."""

    COMPUTE = "compute"
    REUSE_OUTPUT = "reuse_output"
    ADD_DELTA = "add_delta"


class SequenceState(NamedTuple):
    """What a policy may look at, before a denoising pass of one sequence."""

    request: int  # index of the sequence in the list of requests
    block: int  # index of the current block, from the start of the prompt
    sub_block: int  # the leftmost sub-block that still holds a mask
    block_step: int  # denoising passes of this block so far, reused ones included
    sub_block_step: int  # of these, the passes made while this sub-block was the leftmost
    has_block_cache: bool  # a full-block pass has run in this block
    has_stored_logits: bool  # the last pass that ran layers predicted the current sub-block
    predicted: tuple[int, int]  # block offsets that the last full-block pass predicted, half-open
    masked: tuple[bool, ...]  # per offset in the block
    committed_since_compute: int  # tokens committed by the last pass that ran every layer and since
    passes_since_compute: int  # denoising passes since that one
    lowest_confidence: float | None  # of the tokens committed by the previous pass of this block


class SpanSignals(Protocol):
    """Measured on demand, for the sequences of one pass, at the input of one span."""

    def input_change(self) -> list[float]:
        """||h - h*|| / ||h*|| at the masked positions of the pass, h* as of the last recompute.

        Infinite for a sequence without stored values. Source: docs/layer-reuse.md.
        """
        ...


@dataclass(frozen=True, slots=True)
class Predictions:
    """What one pass says about the window of positions that the policy asked for.

    tokens: [B, W] long, the token proposed for each position; never the mask token.
    confidence: [B, W] float32, its probability; -inf where the position is not masked.
    masked: [B, W] bool, True where a token may be committed.
    offsets: [B] int, offset in the block of each row's first position.
    """

    tokens: Tensor
    confidence: Tensor
    masked: Tensor
    offsets: Tensor


@dataclass(frozen=True, slots=True)
class Computation:
    """What of a config touches its tokens, so that configs which are one computation run once.

    is_plain: the policy decides exactly like `Policy`, so neither its code nor its parameters
        count, nor do `reuse_k` and `layer_subset`.
    ignored: names of settings and parameters without effect.
    """

    is_plain: bool = False
    ignored: frozenset[str] = frozenset()


PLAIN = Computation(is_plain=True)


class Policy:
    """Plain Fast-dLLM v2; an experiment derives from this class in its own file.

    Source of the rules: Fast-dLLM v2 (arXiv 2509.26328), and docs/decoding.md.
    """

    class Parameters(StrictModel):
        """Typed parameters that the grid of an experiment may set, besides the settings."""

    # Spans of layers, in order and disjoint, about which `span_actions` is asked.
    layer_spans: tuple[LayerRange, ...] = ()
    # Keep what each computed pass proposed, so that a later pass can be `reused`.
    keeps_proposals: bool = False
    # The earlier name of `keeps_proposals`, which holds as well.
    keeps_logits: bool = False

    def __init__(
        self, settings: DecodingSettings, parameters: StrictModel, num_layers: int
    ) -> None:
        self.settings = settings
        self.parameters = parameters
        self.num_layers = num_layers

    @classmethod
    def computation(cls, settings: DecodingSettings, parameters: StrictModel) -> Computation:
        """Return what affects the tokens; experiments override this, and tests check it."""
        return PLAIN if cls is Policy else Computation()

    def next_pass(self, state: SequenceState) -> PassKind:
        """Choose full_block, sub_block or reused for a sequence whose block has masks left.

        A full-block pass makes the block cache; it is needed at the start of a block, and whenever
        the first position of the sub-block is masked, since its prediction comes from the row
        before it. With look-ahead that position may be known on entering the sub-block, and the
        cache would lack the tokens of the one before, so it is always made again.
        """
        first = state.sub_block * self.settings.small_block_size
        is_entered_ahead = self.settings.lookahead_depth > 0 and state.sub_block_step == 0
        if (
            not self.settings.use_block_cache
            or not state.has_block_cache
            or state.masked[first]
            or is_entered_ahead
        ):
            return PassKind.FULL_BLOCK
        return PassKind.SUB_BLOCK

    def span_actions(
        self, span: LayerRange, states: Sequence[SequenceState], signals: SpanSignals
    ) -> list[SpanAction]:
        """Choose, per sequence of a sub-block pass, what to do with one of `layer_spans`.

        Full-block passes, like prefill and commits, run every layer and are not asked about.
        """
        return [SpanAction.COMPUTE] * len(states)

    def window(self, state: SequenceState, kind: PassKind) -> tuple[int, int]:
        """Half-open range of block offsets to predict in this pass.

        The sub-block, and with look-ahead the next ones. A sub-block pass does not run those: what
        the last full-block pass of the block predicted for them stands.
        """
        size, depth = self.settings.small_block_size, self.settings.lookahead_depth
        start, stop = state.sub_block * size, (state.sub_block + 1) * size
        if depth == 0:
            return start, stop
        ahead = min(stop + depth * size, self.settings.block_size)
        if kind is not PassKind.FULL_BLOCK:
            ahead = min(ahead, state.predicted[1])
        return start, max(stop, ahead)

    def accept(self, predictions: Predictions, states: Sequence[SequenceState]) -> Tensor:
        """Choose the positions to commit, bool [B, W].

        In the sub-block every token above the confidence threshold, and the most confident one of
        each sequence in any case (the first on ties), so that each pass makes progress. Ahead of
        it, see `accepted_ahead`.
        """
        return self.accepted_above(self.settings.threshold, predictions)

    def accepted_above(self, threshold: float, predictions: Predictions) -> Tensor:
        """Apply the rule of `accept` with any threshold, for policies that choose one."""
        accepted = predictions.confidence > threshold
        sub_block = predictions.confidence
        if self.settings.lookahead_depth:
            sub_block = sub_block[:, : self.settings.small_block_size]
            accepted[:, sub_block.shape[1] :] = False
        best = sub_block.argmax(dim=-1, keepdim=True)
        accepted = accepted.scatter_(-1, best, True) & predictions.masked
        return self.accepted_ahead(predictions, accepted)

    def accepted_ahead(self, predictions: Predictions, accepted: Tensor) -> Tensor:
        """Add to `accepted` [B, W] the confident tokens of the sub-blocks ahead, with look-ahead.

        One sub-block after the other, while every position before it is known by then: those above
        `lookahead_threshold`, and none in any case. Source: docs/layer-reuse.md, look-ahead.
        """
        if self.settings.lookahead_depth == 0:
            return accepted
        size = self.settings.small_block_size
        is_known = ~predictions.masked | accepted
        for start in range(size, predictions.masked.shape[1], size):
            columns = slice(start, start + size)
            is_open = is_known[:, :start].all(dim=-1, keepdim=True)
            sure = predictions.confidence[:, columns] > self.settings.lookahead_threshold
            accepted[:, columns] = sure & is_open & predictions.masked[:, columns]
            is_known[:, columns] |= accepted[:, columns]
        return accepted


class OutputReuse(Policy):
    """Layer reuse in output mode: only every k-th denoising pass of a block is computed.

    A pass between two computed ones would repeat the logits of the last computed one exactly,
    whatever span is reused (docs/layer-reuse.md), so it runs no layer at all. Full-block passes
    always run.
    """

    keeps_proposals = True

    @classmethod
    def computation(cls, settings: DecodingSettings, parameters: StrictModel) -> Computation:
        """At reuse_k 1 nothing is reused; else the span does not matter."""
        return PLAIN if settings.reuse_k == 1 else Computation(ignored=frozenset({"layer_subset"}))

    def next_pass(self, state: SequenceState) -> PassKind:
        """Choose the plain next pass, or a reused one instead of a sub-block pass."""
        kind = super().next_pass(state)
        if kind is PassKind.SUB_BLOCK and state.block_step % self.settings.reuse_k:
            return PassKind.REUSED
        return kind


def default_policy(settings: DecodingSettings, num_layers: int) -> Policy:
    """Return the built-in policy that `settings` describe."""
    chosen = OutputReuse if settings.reuse_k > 1 else Policy
    return chosen(settings, chosen.Parameters(), num_layers)
