"""Tokens proposed for the positions that a pass may commit, and the checks on a policy's choice."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fastdllm.errors import PolicyViolation
from fastdllm.policy import (
    LayerRange,
    PassKind,
    Policy,
    Predictions,
    SequenceState,
    SpanAction,
    SpanSignals,
)
from fastdllm.sampling import exclude_mask_token, greedy, nucleus_sample
from fastdllm.sequence import DecodedSequence
from fastdllm.settings import DecodingSettings

Window = tuple[int, int]


def propose(sequences: list[DecodedSequence], logits: Tensor, windows: list[Window]) -> Predictions:
    """Propose a token with its confidence for each position of each window.

    Args:
        logits: [B, W, V], already shifted; column c predicts offset windows[b][0] + c. Columns
            beyond a row's own window are padding.
    """
    logits = exclude_mask_token(logits, sequences[0].mask_id)
    tokens, confidence = greedy(logits)
    width = logits.shape[1]
    for row, (sequence, (start, stop)) in enumerate(zip(sequences, windows, strict=True)):
        if sequence.temperature > 0:
            own = slice(stop - start)
            tokens[row, own], confidence[row, own] = nucleus_sample(
                logits[row, own],
                temperature=sequence.temperature,
                top_p=sequence.top_p,
                uniform=torch.rand(stop - start, generator=sequence.generator).to(logits.device),
            )
    open_positions = [
        sequence.masked[start:stop] + [False] * (width - (stop - start))
        for sequence, (start, stop) in zip(sequences, windows, strict=True)
    ]
    masked = torch.tensor(open_positions, device=logits.device)
    return Predictions(
        tokens=tokens,
        confidence=confidence.masked_fill(~masked, -torch.inf),
        masked=masked,
        offsets=torch.tensor([start for start, _ in windows], device=logits.device),
    )


def stored_logits(
    policy: Policy, sequences: list[DecodedSequence], windows: list[Window]
) -> Tensor:
    """Logits [B, W, V] of the last computed pass of each sequence, cut to `windows` and padded.

    Raises:
        PolicyViolation: the last computed pass of a sequence did not predict its window.
    """
    rows = []
    for sequence, (start, stop) in zip(sequences, windows, strict=True):
        stored, (first, end) = sequence.stored_logits, sequence.stored_window or (0, 0)
        if stored is None or not first <= start < stop <= end:
            raise violation(policy, "asked for a reused pass of positions no pass has computed")
        rows.append(stored[start - first : stop - first])
    return pad_sequence(rows, batch_first=True)


def check_spans(policy: Policy, num_layers: int) -> None:
    """Refuse spans of layers that are empty, overlap, or are not in the order of the layers.

    Raises:
        PolicyViolation: naming the policy and the rule.
    """
    reached = 0
    for start, stop in policy.layer_spans:
        if not reached <= start < stop <= num_layers:
            raise violation(
                policy,
                f"layer_spans {policy.layer_spans} must be half-open ranges of layers, in order "
                f"and disjoint, within 0 to {num_layers}",
            )
        reached = stop


def check_pass(
    policy: Policy,
    *,
    kind: PassKind,
    window: Window,
    state: SequenceState,
    settings: DecodingSettings,
) -> None:
    """Refuse a pass that the state of the sequence does not allow.

    Raises:
        PolicyViolation: naming the policy and the rule.
    """
    size = settings.small_block_size
    reach = (0, settings.block_size)
    if kind is PassKind.SUB_BLOCK:
        if not state.has_block_cache:
            raise violation(policy, "asked for a sub_block pass before any full_block pass")
        reach = (state.sub_block * size, (state.sub_block + 1) * size)
        if state.masked[reach[0]]:
            raise violation(
                policy,
                "asked for a sub_block pass although the first position is masked; only a "
                "full_block pass has the row before it, which predicts it",
            )
    if not reach[0] <= window[0] < window[1] <= reach[1]:
        raise violation(policy, f"window {window} lies outside the {kind} pass, {reach}")


def chosen_pass(policy: Policy, state: SequenceState) -> PassKind:
    """The pass that the policy asks for; a word is as good as a member of `PassKind`."""
    asked = policy.next_pass(state)
    try:
        return PassKind(asked)
    except ValueError:
        kinds = ", ".join(PassKind)
        raise violation(policy, f"next_pass gave {asked!r}; it should be one of {kinds}") from None


def chosen_actions(
    policy: Policy, span: LayerRange, states: list[SequenceState], signals: SpanSignals
) -> list[SpanAction]:
    """What the policy does with `span`, one action per sequence."""
    asked = policy.span_actions(span, states, signals)
    if len(asked) != len(states):
        raise violation(policy, f"span_actions gave {len(asked)} for {len(states)} sequences")
    try:
        return [SpanAction(action) for action in asked]
    except ValueError as error:
        kinds = ", ".join(SpanAction)
        raise violation(policy, f"span_actions: {error}; it should be one of {kinds}") from None


def check_accepted(policy: Policy, accepted: Tensor, masked: Tensor) -> None:
    """Refuse a choice that overwrites a known position or makes no progress.

    accepted, masked: bool [B, W].

    Raises:
        PolicyViolation: naming the policy and the rule.
    """
    if accepted.shape != masked.shape or accepted.dtype != torch.bool:
        raise violation(policy, "accept must return a bool tensor of the shape of the window")
    if bool((accepted & ~masked).any()):
        raise violation(policy, "accepted a position that is not masked; tokens are final")
    if not bool(accepted.any(dim=-1).all()):
        raise violation(policy, "accepted no token in a pass; decoding would never end")


def violation(policy: Policy, what: str) -> PolicyViolation:
    """The error for a policy that breaks a rule."""
    return PolicyViolation(f"policy {type(policy).__name__}: {what}")
