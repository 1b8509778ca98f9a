"""The tokens that a pass proposes for the positions that it may commit."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, islice, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fastdllm.decoding.finite import NotFinite, first_not_finite
from fastdllm.decoding.rules import violation
from fastdllm.decoding.sampling import greedy, nucleus_sample
from fastdllm.decoding.sequence import Candidate, DecodedSequence, Proposals, Window
from fastdllm.policy import Policy, Predictions

if TYPE_CHECKING:
    from fastdllm.decoding.work import Work


# So many ids of tokens float32 tells apart.
MOST_IDS = 2**24


def propose(
    works: Sequence[Work], logits: Tensor, mask_id: int, dtype: torch.dtype
) -> list[Proposals]:
    """Return what a pass proposes, for each work in order; one transfer brings all to the host.

    Args:
        logits: float32 [M, V], the rows read by `works`, in the same order; overwritten.
        dtype: that the model computes in, for the error.

    Raises:
        NotFinite: a logit is NaN or infinite.
    """
    assert logits.shape[-1] <= MOST_IDS
    # Before masks are excluded: a sum shows any NaN and any infinity.
    sums = logits.sum(dim=-1)
    logits[:, mask_id] = -torch.inf
    reads = (work.read[1] - work.read[0] for work in works)
    rows = [*pairwise(accumulate(reads, initial=0))]
    sampled_from = {
        work: logits[work.per_position([*range(start, stop)])]
        for work, (start, stop) in zip(works, rows, strict=True)
        if work.is_sampled
    }
    samples = [part for work, own in sampled_from.items() for part in _sample(work.sequence, own)]
    likeliest = _likeliest(works, logits)
    ids, confidences, checked, *others = _on_host(*greedy(logits), sums, *samples, *likeliest)
    bad = first_not_finite(checked)
    if bad is not None:
        work = next(work for work, (_, stop) in zip(works, rows, strict=True) if bad < stop)
        raise NotFinite(work.sequence.index, f"a {work.kind} pass", dtype)
    candidates = _candidates(*others[len(samples) :], rows=len(sums)) if likeliest else []
    proposals, tokens, drawn = [], [*map(int, ids)], iter(others)
    for work, (start, stop) in zip(works, rows, strict=True):
        own_logits = sampled_from.get(work)
        if own_logits is None:
            own_tokens = work.per_position(tokens[start:stop])
            own_confidences = work.per_position(confidences[start:stop])
        else:
            own_tokens, own_confidences = [*map(int, next(drawn))], next(drawn)
        runners_up, shown = work.sequence.runners_up, []
        if runners_up:
            shown = [some[: runners_up + 1] for some in work.per_position(candidates[start:stop])]
        proposals.append(
            Proposals(work.computed_window, own_tokens, own_confidences, own_logits, shown)
        )
    return proposals


def _on_host(*columns: Tensor) -> list[list[float]]:
    """Return the numbers of 1-d tensors, of which float32 holds ids below 2^24 exactly."""
    numbers = iter(torch.cat([column.float() for column in columns]).tolist())
    return [list(islice(numbers, len(column))) for column in columns]


def _likeliest(works: Sequence[Work], logits: Tensor) -> tuple[Tensor, ...]:
    """Return the most likely tokens and their probabilities, [M * n] each, if a work asks for some.

    As many per row as the work with the most runners-up needs, in order.
    """
    most = max(work.sequence.runners_up for work in works)
    if most == 0:
        return ()
    depth = min(most + 1, logits.shape[-1] - 1)  # all but the mask
    probabilities, tokens = logits.softmax(dim=-1).topk(depth, dim=-1)
    return tokens.flatten(), probabilities.flatten()


def _candidates(
    ids: list[float], probabilities: list[float], *, rows: int
) -> list[list[Candidate]]:
    """Return what `_likeliest` found, by row."""
    found = map(Candidate, map(int, ids), probabilities)
    return [list(islice(found, len(ids) // rows)) for _ in range(rows)]


def with_ahead(work: Work, proposed: Proposals) -> Proposals:
    """Return what `work` proposes for all of its window.

    A sub-block pass repeats, for the positions ahead, the proposals of the last full-block pass.
    """
    stop, end = proposed.window[1], work.window[1]
    if not work.denoises or stop == end:
        return proposed
    earlier = work.sequence.ahead
    assert earlier is not None  # a window further than the pass is checked against it
    ahead = slice(stop - earlier.window[0], end - earlier.window[0])
    return Proposals(
        work.window,
        proposed.tokens + earlier.tokens[ahead],
        proposed.confidences + earlier.confidences[ahead],
        proposed.logits,
        proposed.likeliest + earlier.likeliest[ahead],
    )


def propose_again(policy: Policy, sequence: DecodedSequence, window: Window) -> Proposals:
    """Return the proposals of a reused pass: those of the last computed one, or new samples of it.

    Raises:
        PolicyViolation: the last computed pass of the sequence did not predict the window.
    """
    earlier, (start, stop) = sequence.stored, window
    if earlier is None or not earlier.window[0] <= start < stop <= earlier.window[1]:
        raise violation(policy, "asked for a reused pass of positions no pass has computed")
    part = slice(start - earlier.window[0], stop - earlier.window[0])
    tokens, confidences = earlier.tokens[part], earlier.confidences[part]
    if earlier.logits is not None:
        sampled, sample_confidences = _sample(sequence, earlier.logits[part])
        # The positions ahead of a sub-block pass have no logits.
        tokens = sampled.tolist() + tokens[len(sampled) :]
        confidences = sample_confidences.tolist() + confidences[len(sampled) :]
    return Proposals(window, tokens, confidences, None, earlier.likeliest[part])


def _sample(sequence: DecodedSequence, logits: Tensor) -> tuple[Tensor, Tensor]:
    return nucleus_sample(
        logits,
        temperature=sequence.temperature,
        top_p=sequence.top_p,
        uniform=torch.rand(len(logits), generator=sequence.generator).to(logits.device),
    )


def predictions_of(
    sequences: Sequence[DecodedSequence], proposals: Sequence[Proposals]
) -> Predictions:
    """Return what a policy accepts from: [B, W] on the host, narrower windows padded."""
    windows = zip(sequences, proposals, strict=True)
    # By numpy, which reads lists several times as fast as torch.
    masked = _table([s.masked[slice(*p.window)] for s, p in windows], fill=False, dtype=np.bool_)
    confidence = _table([p.confidences for p in proposals], fill=0.0, dtype=np.float32)
    confidence[~masked] = -np.inf
    return Predictions(
        tokens=torch.from_numpy(_table([p.tokens for p in proposals], fill=0, dtype=np.int64)),
        confidence=torch.from_numpy(confidence),
        masked=torch.from_numpy(masked),
        offsets=torch.from_numpy(np.array([p.window[0] for p in proposals])),
    )


def _table(rows: list[list[Any]], *, fill: Any, dtype: Any) -> np.ndarray:
    """Return rows as one array, narrower ones padded."""
    width = max(map(len, rows))
    return np.array([row + [fill] * (width - len(row)) for row in rows], dtype)
