"""Requests are checked against the model here, before anything is decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

import torch

from fastdllm.errors import UserError
from fastdllm.model import ModelConfig
from fastdllm.sampling import request_seed
from fastdllm.sequence import DecodedSequence, Request
from fastdllm.settings import DecodingSettings, check_block_size, layer_span
from fastdllm.validation import validated

Number = TypeVar("Number", int, float)


def start_sequences(
    config: ModelConfig, requests: Sequence[Request], settings: DecodingSettings
) -> list[DecodedSequence]:
    """Check settings and `requests` against the model and lay out their first blocks.

    Raises:
        UserError: naming the setting or the request (its place in the list) that does not fit.
    """
    mask_id, stop_token = _special_tokens(config, settings)
    try:
        check_block_size(settings, config.block_size)
        if settings.layer_subset is not None:
            layer_span(settings.layer_subset, config.num_layers)
    except ValueError as error:
        raise UserError(str(error)) from None
    seen: Counter[tuple[int, ...]] = Counter()
    sequences = []
    for index, request in enumerate(requests):
        prompt = tuple(request.prompt_ids)
        _check_request(config, index, request)
        seed = request.seed
        if seed is None:
            seed = request_seed(settings.seed, prompt, seen[prompt])
        seen[prompt] += 1
        new_tokens = _first(request.max_new_tokens, settings.max_new_tokens)
        if len(prompt) + new_tokens > config.max_positions:
            raise UserError(
                f"request {index}: {len(prompt)} prompt tokens and {new_tokens} new ones exceed "
                f"the model's {config.max_positions} positions; shorten one of them"
            )
        sequence = DecodedSequence(
            index=index,
            prompt_length=len(prompt),
            limit=len(prompt) + new_tokens,
            block_size=settings.block_size,
            mask_id=mask_id,
            stop_token=stop_token,
            small_block_size=settings.small_block_size,
            temperature=_first(request.temperature, settings.temperature),
            top_p=_first(request.top_p, settings.top_p),
            generator=torch.Generator().manual_seed(seed),
            stop_when=request.stop_when,
            tokens=list(prompt),
        )
        sequence.start()
        sequences.append(sequence)
    return sequences


def _special_tokens(config: ModelConfig, settings: DecodingSettings) -> tuple[int, int | None]:
    """Mask and stop token: the settings' own, else the model's."""
    mask_id = settings.mask_id if settings.mask_id is not None else config.mask_id
    stop_token = settings.stop_token if settings.stop_token is not None else config.stop_token
    if mask_id is None:
        raise UserError("this model names no mask token; give one with the setting mask_id")
    for name, token in (("mask_id", mask_id), ("stop_token", stop_token)):
        if token is not None and token >= config.vocab_size:
            raise UserError(
                f"{name} {token} is outside the model's vocabulary of {config.vocab_size}"
            )
    return mask_id, stop_token


def _check_request(config: ModelConfig, index: int, request: Request) -> None:
    for token in request.prompt_ids:
        if not 0 <= token < config.vocab_size:
            raise UserError(
                f"request {index}: token {token} is outside the model's vocabulary of "
                f"{config.vocab_size}; was the prompt made with another tokenizer?"
            )
    own = {name: getattr(request, name) for name in ("max_new_tokens", "temperature", "top_p")}
    given = {name: value for name, value in own.items() if value is not None}
    validated(DecodingSettings, given, f"request {index}")


def _first(own: Number | None, default: Number) -> Number:
    return default if own is None else own
