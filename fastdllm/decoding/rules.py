"""The rules that a policy must keep: each of its decisions is checked before it takes effect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import torch
from torch import Tensor

from fastdllm.common.errors import PolicyViolation
from fastdllm.decoding.sequence import Window
from fastdllm.policy import LayerRange, PassKind, Policy, SequenceState, SpanAction, SpanSignals


def check_spans(policy: Policy, num_layers: int) -> None:
    """Refuse spans of layers that are empty, overlap, or are not in the order of the layers.

    Raises:
        PolicyViolation: naming the policy and the rule.
    """
    reached = 0
    spans = policy.layer_spans
    for span in spans if isinstance(spans, list | tuple) else [None]:
        if not _is_range(span) or not reached <= span[0] < span[1] <= num_layers:
            raise violation(
                policy,
                f"layer_spans {spans!r} must be half-open ranges of layers, such as ((3, 8),), in "
                f"order and disjoint, within 0 to {num_layers}",
            )
        reached = span[1]


def check_pass(policy: Policy, *, kind: PassKind, window: Window, state: SequenceState) -> None:
    """Refuse a pass that the state of the sequence does not allow.

    Raises:
        PolicyViolation: naming the policy and the rule.
    """
    settings = policy.settings
    size = settings.small_block_size
    first, end = state.sub_block * size, (state.sub_block + 1) * size
    reach = (0, settings.block_size)
    if kind is PassKind.SUB_BLOCK:
        if not state.has_block_cache:
            raise violation(policy, "asked for a sub_block pass before any full_block pass")
        if state.masked[first]:
            raise violation(
                policy,
                "asked for a sub_block pass although the first position is masked; only a "
                "full_block pass has the row before it, which predicts it",
            )
        covers_rest = state.predicted[0] <= end
        reach = (first, max(end, state.predicted[1]) if covers_rest else end)
    if not _is_range(window) or not reach[0] <= window[0] < window[1] <= reach[1]:
        raise violation(policy, f"window {window} lies outside the {kind} pass, {reach}")
    if kind is PassKind.SUB_BLOCK and window[0] >= end:
        raise violation(policy, f"window {window} leaves out the sub-block that the pass runs")
    if settings.lookahead_depth and window[0] != first:
        raise violation(
            policy, f"window {window} must start with the sub-block, at {first}, to look ahead"
        )


def chosen_pass(policy: Policy, state: SequenceState) -> PassKind:
    """Return the pass that the policy asks for, by its name or as a `PassKind`."""
    kind = policy.next_pass(state)
    try:
        return kind if isinstance(kind, PassKind) else PassKind(kind)
    except ValueError:
        kinds = ", ".join(PassKind)
        raise violation(policy, f"next_pass gave {kind!r}; it should be one of {kinds}") from None


def chosen_actions(
    policy: Policy, span: LayerRange, states: Sequence[SequenceState], signals: SpanSignals
) -> list[SpanAction]:
    """Return what the policy does with `span`, one action per sequence."""
    actions = policy.span_actions(span, states, signals)
    if not isinstance(actions, list | tuple):
        raise violation(policy, f"span_actions gave {actions!r}; it should be a list")
    if len(actions) != len(states):
        raise violation(policy, f"span_actions gave {len(actions)} for {len(states)} sequences")
    try:
        return [SpanAction(action) for action in actions]
    except ValueError as error:
        kinds = ", ".join(SpanAction)
        raise violation(policy, f"span_actions: {error}; it should be one of {kinds}") from None


def accepted_columns(
    policy: Policy, accepted: Tensor, masked: Sequence[Sequence[bool]]
) -> list[list[int]]:
    """Return which columns of each row a policy accepted.

    accepted: bool [B, W], as the policy gave it. masked: the same shape, as it was asked.

    Raises:
        PolicyViolation: naming the policy and the rule, such as that tokens are final.
    """
    shape = (len(masked), len(masked[0]))
    is_tensor = isinstance(accepted, Tensor) and accepted.device.type == "cpu"
    if not is_tensor or accepted.shape != shape or accepted.dtype != torch.bool:
        raise violation(
            policy, "accept must return a bool tensor of the shape of the window, on the host"
        )
    columns = [[c for c, taken in enumerate(row) if taken] for row in accepted.tolist()]
    if not all(row[c] for row, taken in zip(masked, columns, strict=True) for c in taken):
        raise violation(policy, "accepted a position that is not masked; tokens are final")
    if not all(columns):
        raise violation(policy, "accepted no token in a pass; decoding would never end")
    return columns


def _is_range(value: object) -> TypeGuard[tuple[int, int]]:
    return isinstance(value, tuple) and [type(part) for part in value] == [int, int]


def violation(policy: Policy, what: str) -> PolicyViolation:
    """Build the error for a policy that breaks a rule; one that wraps another is named after it."""
    author = getattr(policy, "inner", policy)
    return PolicyViolation(f"policy {type(author).__name__}: {what}")
