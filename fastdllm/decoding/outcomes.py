"""Applies a pass to its sequences: commits tokens, counts passes, and reports one `Step` each.

Knows the rules of each kind of pass; runs none (decoder.py does).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fastdllm.decoding.proposals import predictions_of
from fastdllm.decoding.rules import accepted_columns
from fastdllm.decoding.sequence import Candidate, Generation, Proposals, Proposed
from fastdllm.decoding.work import Work, by_policy
from fastdllm.policy import PassKind, Policy


class TokenChoice(NamedTuple):
    """A committed token's confidence, whether or not a threshold judged it, and its runners-up.

    runners_up: the most likely other tokens, in order, with the probabilities that the model gives
        them; those of a sampled token may be more likely than it.
    """

    confidence: float
    runners_up: tuple[Candidate, ...]


class Step(NamedTuple):
    """One pass of one sequence: what it committed, with which confidence, and what it cost.

    kind: None for a request that needs no pass: it was refused (`finished` says why), asked for no
        token, or was cancelled. The other fields of such steps are empty.
    positions: absolute positions in the sequence; a commit or prefill pass may write the one token
        that follows it. confidences: probabilities; empty for tokens that no threshold judged.
    choices, proposed: only if the request asked for runners-up (`Request.runners_up`): one choice
        per token; what the pass proposed for the positions of its window that are still masked.
    rows: positions that the pass ran through the layers (0 for a reused pass).
    input_changes: what the policy measured to decide on its spans, in their order, relative to the
        norm of their input (`SpanSignals.input_change`); empty if it measured nothing.
    finished: the answer, if this pass completed it.
    """

    request: int
    kind: PassKind | None
    block: int = 0
    sub_block: int | None = None
    positions: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()
    confidences: tuple[float, ...] = ()
    rows: int = 0
    layers_skipped: int = 0
    input_changes: tuple[float, ...] = ()
    choices: tuple[TokenChoice, ...] = ()
    proposed: tuple[Proposed, ...] = ()
    finished: Generation | None = None


def results(
    works: Sequence[Work], proposals: Sequence[Proposals], num_layers: int
) -> Iterator[list[Step]]:
    """Apply one pass to its sequences, prefills and commits first."""
    pairs = [*zip(works, proposals, strict=True)]
    steps = [_whole_blocks(*pair, num_layers) for pair in pairs if not pair[0].denoises]
    if any(steps):
        yield [step for step in steps if step is not None]
    denoising = [pair for pair in pairs if pair[0].denoises]
    for work, proposed in denoising:
        policy = work.sequence.policy
        if policy.keeps_proposals or policy.keeps_logits:
            work.sequence.stored = proposed
        if work.kind is PassKind.FULL_BLOCK:
            # Positions ahead are not sampled again; the logits would take memory for nothing.
            work.sequence.ahead = proposed.without_logits()
    yield from denoised(denoising, num_layers)


def _whole_blocks(work: Work, proposed: Proposals, num_layers: int) -> Step | None:
    """Apply a prefill or commit; if its last block is full, the last row predicts the next token.

    Returns None for a piece of a prefill that is not the last: a prefill counts as one pass.
    """
    sequence, block = work.sequence, work.sequence.block
    rows = work.width
    if work.kind is PassKind.PREFILL:
        sequence.prefilled = work.blocks[1]
        if sequence.needs_prefill:
            return None
        rows = sequence.block_start - sequence.restored * sequence.block_size
    sequence.count(work.kind, computed=num_layers, skipped=0)
    if work.kind is PassKind.COMMIT:
        sequence.enter_next_block()
    written = dict(enumerate(proposed.tokens))
    sequence.commit_tokens(written)
    return _step(work, block, proposed, written=written, rows=rows)


def denoised(denoising: Sequence[tuple[Work, Proposals]], num_layers: int) -> Iterator[list[Step]]:
    """Commit those of the proposed tokens that the policy of each sequence accepts."""
    for policy, group in by_policy(work for work, _ in denoising):
        yield _accepted(policy, [denoising[index] for index in group], num_layers)


def _accepted(
    policy: Policy, denoising: Sequence[tuple[Work, Proposals]], num_layers: int
) -> list[Step]:
    works, proposals = zip(*denoising, strict=True)
    predictions = predictions_of([work.sequence for work in works], proposals)
    masked = predictions.masked.tolist()  # now, as the policy may write to what it is given
    accepted = policy.accept(predictions, [work.state for work in works])
    steps = []
    for (work, proposed), columns in zip(
        denoising, accepted_columns(policy, accepted, masked), strict=True
    ):
        sequence, start = work.sequence, work.window[0]
        confidences = tuple([proposed.confidences[column] for column in columns])
        skipped = work.layers_skipped
        sequence.count(work.kind, computed=num_layers - skipped, skipped=skipped)
        sequence.lowest_confidence = min(confidences)
        sequence.committed_since_compute += len(columns)
        block = sequence.block
        written = {start + column: proposed.tokens[column] for column in columns}
        sequence.commit_tokens(written)
        steps.append(
            _step(
                work,
                block,
                proposed,
                written=written,
                rows=work.width,
                confidences=confidences,
            )
        )
    return steps


def _step(
    work: Work,
    block: int,
    proposed: Proposals,
    *,
    written: dict[int, int],
    rows: int,
    confidences: tuple[float, ...] = (),
) -> Step:
    sequence = work.sequence
    start = sequence.block_start
    choices, still_masked = _shown(work, proposed, written) if sequence.runners_up else ((), ())
    return Step(
        request=sequence.index,
        kind=work.kind,
        block=block,
        sub_block=work.state.sub_block if work.state is not None else None,
        positions=tuple([start + offset for offset in written]),
        tokens=tuple(written.values()),
        confidences=confidences,
        rows=rows,
        layers_skipped=work.layers_skipped,
        input_changes=tuple(work.input_changes),
        choices=choices,
        proposed=still_masked,
        finished=sequence.generation() if sequence.finish_reason else None,
    )


def _shown(
    work: Work, proposed: Proposals, written: dict[int, int]
) -> tuple[tuple[TokenChoice, ...], tuple[Proposed, ...]]:
    """Return what a step tells of its tokens, and of the positions that it left masked."""
    sequence, start = work.sequence, proposed.window[0]
    choices = []
    for offset, token in written.items():
        candidates = proposed.likeliest[offset - start]
        others = [candidate for candidate in candidates if candidate.token != token]
        choices.append(
            TokenChoice(proposed.confidences[offset - start], tuple(others[: sequence.runners_up]))
        )
    if not work.denoises:
        return tuple(choices), ()
    columns = zip(proposed.tokens, proposed.confidences, strict=True)
    return tuple(choices), tuple(
        Proposed(sequence.block_start + offset, token, confidence)
        for offset, (token, confidence) in enumerate(columns, start)
        if sequence.masked[offset]
    )
