"""Log-likelihood of a target after a prefix, for multiple-choice tasks.

Two named modes, since a block-diffusion model sees masks to the right of what it predicts:
`published` scores the first target token only, as the published evaluation does (right for
one-token targets); `chain` adds up one term per target token. Knows nothing of tasks or tokenizers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from fastdllm.errors import UserError
from fastdllm.model import BlockDiffusionModel, block_causal_mask

LikelihoodMode = Literal["published", "chain"]


@dataclass(frozen=True, slots=True)
class LikelihoodRequest:
    """How likely is `target_ids` right after `prefix_ids`? The target has at least one token."""

    prefix_ids: tuple[int, ...]
    target_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Likelihood:
    """The answer: natural log-probability, and whether each scored token is the most likely one.

    In `published` mode a target of several tokens was not scored whole, so `is_greedy` is False.
    """

    logprob: float
    is_greedy: bool


@dataclass(frozen=True, slots=True)
class _Row:
    """One model input and the position whose logits are read."""

    tokens: tuple[int, ...]
    read_at: int


def score(
    model: BlockDiffusionModel,
    requests: Sequence[LikelihoodRequest],
    *,
    mode: LikelihoodMode = "published",
    block_size: int = 32,
    mask_id: int | None = None,
    eos_id: int | None = None,
    batch_size: int = 32,
) -> list[Likelihood]:
    """Score `requests` in the order given; equal model inputs run once.

    Args:
        mask_id, eos_id: default: the model's own.
        batch_size: most rows per pass.

    Raises:
        UserError: an empty target, a token or length that does not fit the model, no mask token.

    Source: docs/decoding.md, "Log-likelihood".
    """
    config = model.config
    mask_id = config.mask_id if mask_id is None else mask_id
    eos_id = config.stop_token if eos_id is None else eos_id
    if mask_id is None or eos_id is None:
        raise UserError("this model names no mask or stop token; give mask_id and eos_id")
    terms: list[list[tuple[_Row, int]]] = []
    for index, request in enumerate(requests):
        _check(index, request, config.vocab_size, config.max_positions - block_size)
        count = 1 if mode == "published" else len(request.target_ids)
        terms.append(
            [
                (
                    _input_row(
                        request,
                        revealed=revealed,
                        mode=mode,
                        block_size=block_size,
                        mask_id=mask_id,
                        eos_id=eos_id,
                    ),
                    request.target_ids[revealed],
                )
                for revealed in range(count)
            ]
        )
    wanted: dict[_Row, set[int]] = {}
    for parts in terms:
        for row, token in parts:
            wanted.setdefault(row, set()).add(token)
    found = _run_rows(model, wanted, block_size=block_size, batch_size=batch_size)
    scores = []
    for request, parts in zip(requests, terms, strict=True):
        values = [found[row][token] for row, token in parts]
        whole = len(parts) == len(request.target_ids)
        scores.append(
            Likelihood(
                logprob=sum(logprob for logprob, _ in values),
                is_greedy=whole and all(best for _, best in values),
            )
        )
    return scores


def _input_row(
    request: LikelihoodRequest,
    *,
    revealed: int,
    mode: LikelihoodMode,
    block_size: int,
    mask_id: int,
    eos_id: int,
) -> _Row:
    """The input that predicts target token `revealed`, cut after the block that is read.

    Rows see no later block, so what would follow that block cannot change the logits.
    """
    known = len(request.prefix_ids) + revealed
    if mode == "published":
        # The rest of the target stays visible, with the stop token right behind it.
        tokens = [*request.prefix_ids, mask_id, *request.target_ids[1:], eos_id]
    else:
        tokens = [*request.prefix_ids, *request.target_ids[:revealed], mask_id]
    # Token shift: the row before the masked position predicts it (row 0 when there is none).
    read_at = max(known - 1, 0)
    length = (read_at // block_size + 1) * block_size
    tokens += [mask_id] * (length - len(tokens))
    return _Row(tuple(tokens[:length]), read_at)


@torch.inference_mode()
def _run_rows(
    model: BlockDiffusionModel,
    wanted: dict[_Row, set[int]],
    *,
    block_size: int,
    batch_size: int,
) -> dict[_Row, dict[int, tuple[float, bool]]]:
    """Log-probability, and whether it is the best, of each wanted token of each row."""
    by_length: dict[int, list[_Row]] = {}
    for row in wanted:
        by_length.setdefault(len(row.tokens), []).append(row)
    found: dict[_Row, dict[int, tuple[float, bool]]] = {}
    device = model.device
    for length, rows in sorted(by_length.items()):
        mask = block_causal_mask(length, block_size, device) if length > block_size else None
        positions = torch.arange(length, device=device)
        for first in range(0, len(rows), batch_size):
            batch = rows[first : first + batch_size]
            hidden = model.embed(torch.tensor([row.tokens for row in batch], device=device))
            hidden = model.run_layers(
                hidden, 0, model.config.num_layers, positions=positions, mask=mask
            )
            read_at = torch.tensor([row.read_at for row in batch], device=device)
            logits = model.head(hidden[torch.arange(len(batch), device=device), read_at]).float()
            logprobs = logits.log_softmax(dim=-1).cpu()
            best = logprobs.argmax(dim=-1).tolist()
            for row, values, top in zip(batch, logprobs, best, strict=True):
                found[row] = {token: (float(values[token]), token == top) for token in wanted[row]}
    return found


def _check(index: int, request: LikelihoodRequest, vocab_size: int, most: int) -> None:
    if not request.target_ids:
        raise UserError(f"log-likelihood request {index}: the target has no tokens")
    for token in (*request.prefix_ids, *request.target_ids):
        if not 0 <= token < vocab_size:
            raise UserError(
                f"log-likelihood request {index}: token {token} is outside the model's "
                f"vocabulary of {vocab_size}"
            )
    length = len(request.prefix_ids) + len(request.target_ids)
    if length > most:
        raise UserError(
            f"log-likelihood request {index}: {length} tokens; the model takes at most {most}"
        )
