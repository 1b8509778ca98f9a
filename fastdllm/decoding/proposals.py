"""The tokens that a pass proposes for the positions that it may commit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastdllm.decoding.finite import NotFinite, first_not_finite
from fastdllm.decoding.rules import violation
from fastdllm.decoding.sampling import greedy, nucleus_sample
from fastdllm.decoding.sequence import Candidate, DecodedSequence, Proposals, Window
from fastdllm.policy import Policy, Predictions

if TYPE_CHECKING:
    from fastdllm.decoding.work import Work


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
    # Before masks are excluded: a sum shows any NaN and any infinity.
    sums = logits.sum(dim=-1)
    logits[:, mask_id] = -torch.inf
    tokens, confidences = greedy(logits)
    base, bases, sampled, drawn_from = 0, [], [], []
    for work in works:
        bases.append(base)
        base += work.read[1] - work.read[0]
        if work.is_sampled:
            rows = [bases[-1] + work.row_of(p) for p in range(*work.computed_window)]
            drawn_from.append(logits[rows])
            sampled.append(_sample(work.sequence, drawn_from[-1]))
    likeliest = _likeliest(works, logits)
    parts = [(tokens, confidences), *sampled, *likeliest, (tokens, sums)]
    all_tokens, all_confidences = (torch.cat(part) for part in zip(*parts, strict=True))
    # float64 holds token ids and float32 probabilities exactly.
    ids, values = torch.stack((all_tokens.double(), all_confidences.double())).tolist()
    bad = first_not_finite(values[len(values) - len(sums) :])
    if bad is not None:
        work = next(w for w, start in reversed([*zip(works, bases, strict=True)]) if start <= bad)
        raise NotFinite(work.sequence.index, f"a {work.kind} pass", dtype)
    proposals, next_sample = [], base
    own_logits = iter(drawn_from)
    shown = len(values) - len(sums) - sum(len(part) for part, _ in likeliest)
    depth = (len(values) - len(sums) - shown) // max(len(sums), 1)
    for work, start in zip(works, bases, strict=True):
        if work.denoises:
            rows = [start + work.row_of(p) for p in range(*work.computed_window)]
        else:
            rows = [start + n for n in range(work.read[1] - work.read[0])]
        places = rows
        if work.is_sampled:
            places = [next_sample + n for n in range(len(rows))]
            next_sample += len(places)
        wanted = min(work.sequence.runners_up + 1, depth) if work.sequence.runners_up else 0
        firsts = [shown + row * depth for row in rows] if wanted else []
        proposals.append(
            Proposals(
                work.computed_window,
                [int(ids[i]) for i in places],
                [values[i] for i in places],
                next(own_logits) if work.is_sampled else None,
                [
                    [Candidate(int(ids[i]), values[i]) for i in range(first, first + wanted)]
                    for first in firsts
                ],
            )
        )
    return proposals


def _likeliest(works: Sequence[Work], logits: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the most likely tokens and their probabilities, [M * n] each, if a work asks for some.

    As many per row as the work with the most runners-up needs, in order.
    """
    most = max(work.sequence.runners_up for work in works)
    if most == 0:
        return []
    depth = min(most + 1, logits.shape[-1] - 1)  # all but the mask
    probabilities, tokens = logits.softmax(dim=-1).topk(depth, dim=-1)
    return [(tokens.flatten(), probabilities.flatten())]


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
    return Proposals(window, tokens, confidences, likeliest=earlier.likeliest[part])


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
    width = max(len(p.tokens) for p in proposals)
    fill = [width - len(p.tokens) for p in proposals]
    masked = torch.tensor(
        [
            s.masked[slice(*p.window)] + [False] * n
            for s, p, n in zip(sequences, proposals, fill, strict=True)
        ]
    )
    confidence = torch.tensor(
        [p.confidences + [0.0] * n for p, n in zip(proposals, fill, strict=True)],
        dtype=torch.float32,
    )
    return Predictions(
        tokens=torch.tensor([p.tokens + [0] * n for p, n in zip(proposals, fill, strict=True)]),
        confidence=confidence.masked_fill_(~masked, -torch.inf),
        masked=masked,
        offsets=torch.tensor([p.window[0] for p in proposals]),
    )
