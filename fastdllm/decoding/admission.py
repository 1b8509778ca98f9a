"""Checks settings and requests against the model before anything is decoded.

Settings that do not fit are an error. A request that does not fit is refused alone: the others are
decoded as if it were not there.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from pydantic import Field

from fastdllm.common.errors import UserError
from fastdllm.decoding.rules import check_spans
from fastdllm.decoding.sampling import request_seed
from fastdllm.decoding.sequence import DecodedSequence, Generation, PassCounts, Request
from fastdllm.model.config import ModelConfig
from fastdllm.policy import LayerRange, Policy
from fastdllm.settings import DecodingSettings, check_block_size, layer_span
from fastdllm.validation import validated

# More are not worth showing, and each has a row of the transfer to the host.
MOST_RUNNERS_UP = 5


class RequestSettings(DecodingSettings):
    """The settings of one request, which may ask for no token at all."""

    max_new_tokens: int = Field(256, ge=0)
    # What a torch.Generator takes.
    seed: int = Field(0, ge=0, lt=2**64)
    runners_up: int = Field(0, ge=0, le=MOST_RUNNERS_UP)


@dataclass(slots=True)
class Admitted:
    """Requests after the check.

    sequences: to be decoded, in the order of the requests. outcomes: of the others, by their index
    in the list of requests: refused, or nothing to decode.
    """

    sequences: list[DecodedSequence] = field(default_factory=list)
    outcomes: dict[int, Generation] = field(default_factory=dict)


def start_sequences(
    config: ModelConfig, requests: Sequence[Request], settings: DecodingSettings
) -> Admitted:
    """Check settings and `requests` against the model, and lay out the first blocks.

    Raises:
        UserError: naming the setting that is wrong or does not fit the model.
    """
    check_settings(config, settings)
    admitted = Admitted()
    # Refused requests do not count, so that they do not change how others are sampled.
    seen: Counter[tuple[int, ...]] = Counter()
    for index, request in enumerate(requests):
        started = start_sequence(config, index, request, settings, seen=seen)
        if isinstance(started, Generation):
            admitted.outcomes[index] = started
        else:
            admitted.sequences.append(started)
    return admitted


def start_sequence(
    config: ModelConfig,
    index: int,
    request: Request,
    settings: DecodingSettings,
    *,
    seen: Counter[tuple[int, ...]] | None = None,
) -> DecodedSequence | Generation:
    """Lay out the first block of a request, whose settings have been checked.

    Returns its outcome instead, if it is refused or there is nothing to decode.

    Args:
        seen: earlier requests by their prompts, counted on; copies of a prompt are sampled apart.
            Default: the request is sampled as if it were the only one.
    """
    mask_id, stop_tokens = special_tokens(config, settings.mask_id, settings.stop_token)
    try:
        prompt = _token_ids(request)
        wishes = _checked(config, request, prompt, settings, mask_id)
    except UserError as error:
        return Generation([], "refused", PassCounts(), str(error))
    counted = Counter() if seen is None else seen
    generator = None
    if wishes.temperature > 0:
        seed = wishes.seed
        if request.seed is None:
            seed = request_seed(settings.seed, prompt, counted[prompt])
        generator = torch.Generator().manual_seed(seed)
    counted[prompt] += 1
    if wishes.max_new_tokens == 0:
        return Generation([], "length", PassCounts())
    sequence = DecodedSequence(
        index=index,
        prompt_length=len(prompt),
        limit=len(prompt) + wishes.max_new_tokens,
        block_size=settings.block_size,
        mask_id=mask_id,
        stop_tokens=stop_tokens,
        small_block_size=settings.small_block_size,
        temperature=wishes.temperature,
        top_p=wishes.top_p,
        generator=generator,
        stop_when=request.stop_when,
        from_scratch=request.from_scratch,
        runners_up=wishes.runners_up,
        tokens=list(prompt),
    )
    sequence.start()
    return sequence


class BatchKey(NamedTuple):
    """What the sequences that share a pass must have in common; the rest is per sequence."""

    block_size: int
    layer_spans: tuple[LayerRange, ...]
    mask_id: int


def batch_key(config: ModelConfig, policy: Policy) -> BatchKey:
    """Check a policy and its settings against the model; return what its batch has in common.

    Raises:
        UserError: naming the setting that is wrong or does not fit the model.
        PolicyViolation: its spans of layers are not in order, or not in the model.
    """
    settings = policy.settings
    check_spans(policy, config.num_layers)
    check_settings(config, settings)
    mask_id, _ = special_tokens(config, settings.mask_id, settings.stop_token)
    return BatchKey(settings.block_size, tuple(policy.layer_spans), mask_id)


def check_settings(config: ModelConfig, settings: DecodingSettings) -> None:
    """Check settings against the model.

    Raises:
        UserError: naming the setting that is wrong or does not fit the model.
    """
    # Again: a copy with other values (model_copy) is not checked by pydantic.
    validated(DecodingSettings, settings.model_dump(exclude_unset=True), "settings")
    special_tokens(config, settings.mask_id, settings.stop_token)
    try:
        check_block_size(settings, config.block_size)
        if settings.layer_subset is not None:
            layer_span(settings.layer_subset, config.num_layers)
    except ValueError as error:
        raise UserError(str(error)) from None


def usable_positions(config: ModelConfig, block_size: int) -> int:
    """Return the most positions that a sequence can have: the model's, in whole blocks."""
    return config.max_positions // block_size * block_size


def special_tokens(
    config: ModelConfig, mask_id: int | None, stop_token: int | None
) -> tuple[int, tuple[int, ...]]:
    """Return the mask token and the stop tokens: those given, else the model's.

    Raises:
        UserError: there is no mask token, it is a stop token as well, or one of them is outside the
            vocabulary.
    """
    mask_id = config.mask_id if mask_id is None else mask_id
    stop_tokens = config.stop_tokens if stop_token is None else (stop_token,)
    if mask_id is None:
        raise UserError("this model names no mask token; give one with the setting mask_id")
    for name, token in (("mask_id", mask_id), ("stop_token", stop_token)):
        if token is not None and not 0 <= token < config.vocab_size:
            raise UserError(
                f"{name} {token} is outside the model's vocabulary of {config.vocab_size}"
            )
    if mask_id in stop_tokens:
        raise UserError(f"token {mask_id} is the mask and a stop token; give one with the settings")
    return mask_id, stop_tokens


def check_tokens(config: ModelConfig, tokens: Iterable[int]) -> None:
    """Refuse tokens that the model does not have."""
    for token in tokens:
        if not 0 <= token < config.vocab_size:
            raise UserError(
                f"token {token} is outside the model's vocabulary of "
                f"{config.vocab_size}; was the prompt made with another tokenizer?"
            )


def _token_ids(request: Request) -> tuple[int, ...]:
    """Return the prompt as Python's integers: equal prompts must have equal seeds."""
    try:
        return tuple(map(operator.index, request.prompt_ids))
    except TypeError as error:
        raise UserError(f"the prompt should be token ids: {error}") from None


def _checked(
    config: ModelConfig,
    request: Request,
    prompt: tuple[int, ...],
    settings: DecodingSettings,
    mask_id: int,
) -> RequestSettings:
    """Return the settings of one request: its own, else those of all."""
    check_tokens(config, prompt)
    if mask_id in prompt:
        raise UserError(
            f"the prompt holds the mask token {mask_id}, which the model reads as a "
            "position that is not known yet; leave it out"
        )
    names = ("max_new_tokens", "temperature", "top_p")
    values = {name: getattr(settings, name) for name in names}
    wanted = {name: getattr(request, name) for name in (*names, "seed", "runners_up")}
    values |= {name: value for name, value in wanted.items() if value is not None}
    checked = validated(RequestSettings, values)
    most, length = usable_positions(config, settings.block_size), len(prompt)
    if length + checked.max_new_tokens > most:
        raise UserError(
            f"{length} prompt tokens and {checked.max_new_tokens} new ones exceed the "
            f"model's {most} positions; shorten one of them"
        )
    return checked
