"""Log-likelihood of a target after a prefix, for multiple-choice tasks.

Two named modes, since a block-diffusion model sees masks to the right of what it predicts: `chain`
sums one term per target token; `published` scores the first one only, as the published evaluation
does, with the rest of the target and the stop token behind it. What requests share is computed once
(shared_passes.py). Knows nothing of tasks or tokenizers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fastdllm.common.errors import UserError
from fastdllm.decoding.admission import check_tokens, special_tokens
from fastdllm.decoding.events import Observer
from fastdllm.decoding.finite import NotFinite, first_not_finite
from fastdllm.decoding.prefix_tree import Tokens
from fastdllm.decoding.shared_passes import SharedPasses
from fastdllm.model.config import ModelConfig
from fastdllm.model.fused import FusedModel, fused
from fastdllm.model.plain import BlockDiffusionModel

LikelihoodMode = Literal["published", "chain"]


@dataclass(frozen=True, slots=True)
class LikelihoodRequest:
    """How likely is `target_ids` right after `prefix_ids`? The target has at least one token."""

    prefix_ids: tuple[int, ...]
    target_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Likelihood:
    """The answer: natural log-probability, and whether each scored token is the most likely one.

    In `published` mode, a target of several tokens was not scored whole, so `is_greedy` is False.
    """

    logprob: float
    is_greedy: bool


@dataclass(frozen=True, slots=True)
class _Row:
    """One model input and the position whose logits are read."""

    tokens: Tokens
    read_at: int


def score(
    model: FusedModel | BlockDiffusionModel,
    requests: Sequence[LikelihoodRequest],
    *,
    mode: LikelihoodMode | Sequence[LikelihoodMode] = "chain",
    block_size: int = 32,
    mask_id: int | None = None,
    stop_token: int | None = None,
    batch_size: int = 32,
    observe: Observer | None = None,
) -> list[Likelihood]:
    """Score `requests` in the order given; whole blocks that model inputs share run once.

    Args:
        mode: of all requests, or of each.
        mask_id, stop_token: default: the model's own.
        batch_size: most inputs in memory at once; fewer if they do not fit.
        observe: called with the number of inputs in memory (as slots), with each pass, and when
            memory runs out, which halves the blocks per pass (as slots).

    Raises:
        NotFinite: a logit is NaN or infinite.
        UserError: an empty target, a token or length that does not fit the model, no mask token,
            no input in memory at once, or not enough memory for one.

    Source: docs/decoding.md, "Log-likelihood".
    """
    config = model.config
    mask_id, stop_tokens = special_tokens(config, mask_id, stop_token)
    if not stop_tokens:
        raise UserError("this model names no stop token; give one with the setting stop_token")
    if not 1 <= block_size < config.max_positions:
        raise UserError(
            f"block_size: {block_size} is not allowed; it should be at least 1 and less than the "
            f"model's {config.max_positions} positions"
        )
    if batch_size < 1:
        raise UserError(f"batch_size: {batch_size} is not allowed; it should be at least 1")
    terms: list[list[tuple[_Row, int]]] = []
    modes = [mode] * len(requests) if isinstance(mode, str) else mode
    for index, (request, its_mode) in enumerate(zip(requests, modes, strict=True)):
        _check(config, index, request, config.max_positions - block_size)
        count = 1 if its_mode == "published" else len(request.target_ids)
        terms.append(
            [
                (
                    _input_row(
                        request,
                        revealed=revealed,
                        mode=its_mode,
                        block_size=block_size,
                        mask_id=mask_id,
                        stop_token=stop_tokens[0],
                    ),
                    request.target_ids[revealed],
                )
                for revealed in range(count)
            ]
        )
    wanted: dict[_Row, set[int]] = {}
    owners: dict[_Row, int] = {}
    for index, parts in enumerate(terms):
        for row, token in parts:
            wanted.setdefault(row, set()).add(token)
            owners.setdefault(row, index)
    results = _run_rows(
        fused(model), wanted, owners, block_size=block_size, batch_size=batch_size, observe=observe
    )
    scores = []
    for request, parts in zip(requests, terms, strict=True):
        values = [results[row][token] for row, token in parts]
        is_complete = len(parts) == len(request.target_ids)
        scores.append(
            Likelihood(
                logprob=sum(logprob for logprob, _ in values),
                is_greedy=is_complete and all(best for _, best in values),
            )
        )
    return scores


def modes_of(requests: Sequence[LikelihoodRequest], mode: LikelihoodMode) -> list[LikelihoodMode]:
    """Return the mode of each request, given what is asked for all.

    Where a prefix has several targets and each is one token, `chain` is `published`: nothing of a
    target is left out, and choices between letters are those of the published evaluation.
    """
    targets: dict[Tokens, set[Tokens]] = {}
    for request in requests:
        targets.setdefault(request.prefix_ids, set()).add(request.target_ids)
    letters = {
        prefix
        for prefix, of_prefix in targets.items()
        if len(of_prefix) > 1 and all(len(target) == 1 for target in of_prefix)
    }
    return ["published" if request.prefix_ids in letters else mode for request in requests]


def _input_row(
    request: LikelihoodRequest,
    *,
    revealed: int,
    mode: LikelihoodMode,
    block_size: int,
    mask_id: int,
    stop_token: int,
) -> _Row:
    """Return the input that predicts target token `revealed`, up to the block that is read.

    Rows see no later block, so what would follow cannot change the logits.
    """
    n_known = len(request.prefix_ids) + revealed
    if mode == "published":
        # The rest of the target stays visible, followed by the stop token.
        tokens = [*request.prefix_ids, mask_id, *request.target_ids[1:], stop_token]
    else:
        tokens = [*request.prefix_ids, *request.target_ids[:revealed], mask_id]
    # Token shift: the row before the masked position predicts it (row 0 when there is none).
    read_at = max(n_known - 1, 0)
    length = (read_at // block_size + 1) * block_size
    tokens += [mask_id] * (length - len(tokens))
    return _Row(tuple(tokens[:length]), read_at)


@torch.inference_mode()
def _run_rows(
    model: FusedModel,
    wanted: dict[_Row, set[int]],
    owners: dict[_Row, int],
    *,
    block_size: int,
    batch_size: int,
    observe: Observer | None,
) -> dict[_Row, dict[int, tuple[float, bool]]]:
    """Return log-probability, and whether it is the best, of each wanted token of each row.

    owners: the first request that each row belongs to, for errors.
    """
    inputs: dict[Tokens, tuple[int, int]] = {}
    for row in wanted:
        # If the prefix itself contains masks, one input may answer for several rows.
        first, end = inputs.get(row.tokens, (row.read_at, row.read_at + 1))
        inputs[row.tokens] = (min(first, row.read_at), max(end, row.read_at + 1))
    results: dict[_Row, dict[int, tuple[float, bool]]] = {}

    def take(read: Sequence[tuple[Tokens, int]], logits: Tensor) -> None:
        logprobs = logits.log_softmax(dim=-1)
        entries = [
            (index, row, token)
            for index, row in enumerate(_Row(*which) for which in read)
            for token in wanted.get(row, ())
        ]
        cells = torch.tensor([(index, token) for index, _, token in entries], dtype=torch.long)
        rows, columns = cells.view(-1, 2).to(logits.device).unbind(1)
        # A sum shows any NaN and any infinity of a row.
        pairs = torch.stack((logprobs[rows, columns], logits.sum(dim=-1)[rows]))
        values, sums = pairs.tolist()
        bad = first_not_finite(sums)
        if bad is not None:
            raise NotFinite(owners[entries[bad][1]], "a log-likelihood pass", model.dtype)
        best = logits.argmax(dim=-1).tolist()
        for (index, row, token), value in zip(entries, values, strict=True):
            results.setdefault(row, {})[token] = (value, token == best[index])

    if inputs:
        SharedPasses(
            model,
            inputs,
            take=take,
            block_size=block_size,
            batch_size=batch_size,
            observe=observe,
        ).run()
    return results


def _check(config: ModelConfig, index: int, request: LikelihoodRequest, most: int) -> None:
    where = f"log-likelihood request {index}"
    if not request.target_ids:
        raise UserError(f"{where}: the target has no tokens")
    try:
        check_tokens(config, (*request.prefix_ids, *request.target_ids))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    length = len(request.prefix_ids) + len(request.target_ids)
    if length > most:
        raise UserError(f"{where}: {length} tokens; the model takes at most {most}")
