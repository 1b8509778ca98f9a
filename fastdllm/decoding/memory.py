"""How many sequences fit the memory at once.

Estimates from shapes and from the device's free memory; allocates nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fastdllm.common.errors import UserError
from fastdllm.decoding.admission import usable_positions
from fastdllm.engine.cache import bytes_per_position
from fastdllm.machine.device import free_bytes
from fastdllm.model.config import ModelConfig
from fastdllm.model.fused import FusedModel
from fastdllm.policy import Policy

# Most rows of prompts in one pass: a long prompt enters in pieces, so that the passes of sequences
# in flight grow by at most this many rows.
PREFILL_ROWS = 512
# More sequences in flight gain no throughput: the rows of these keep the processor busy.
MOST_SLOTS = 64
# A conversation of some turns; memory decides for how many of these there are slots.
USUAL_POSITIONS = 2048
# Share of the free memory that decoding plans with; other processes use a CPU's memory too.
USABLE = {"cuda": 0.9, "cpu": 0.5}


def choose_slots(
    model: FusedModel,
    lengths: Sequence[int],
    *,
    policy: Policy,
    requested: int | None,
) -> int:
    """Return how many slots fit the memory: at most `requested` (default: `MOST_SLOTS`).

    lengths: the most positions of each sequence; the longest may be in flight together.

    Raises:
        UserError: `requested` is not positive, or not even one sequence fits.
    """
    most, usable = min(_most_slots(requested), len(lengths)), _usable_bytes(model)
    config, dtype = model.config, model.dtype
    fitting, needed = 0, _bytes_of_rows(config, dtype, PREFILL_ROWS)
    for length in sorted(lengths, reverse=True)[:most]:
        needed += slot_bytes(config, dtype, length, policy)
        if needed > usable:
            break
        fitting += 1
    if fitting == 0:
        raise UserError(
            f"a sequence of {max(lengths)} positions needs {_gib(needed)}, but {model.device} has "
            f"{_gib(usable)} to use; shorten the prompt or max_new_tokens"
        )
    return fitting


@dataclass(frozen=True, slots=True)
class Room:
    """Slots, and how many positions of a cache that they share there are for each of them."""

    slots: int
    positions_per_slot: int


def choose_room(
    model: FusedModel, policy: Policy, *, requested: int | None, share: float = 1.0
) -> Room:
    """Return the room for sequences that are not known yet: at most `requested` slots.

    As many slots as memory has for sequences of a usual length, and then all positions that the
    model has for each, or what memory allows of them.

    share: of the usable memory, what may be taken.

    Raises:
        UserError: `requested` is not positive, or memory is too small for a block.
    """
    config, dtype, size = model.config, model.dtype, policy.settings.block_size
    most, usable = _most_slots(requested), int(_usable_bytes(model) * share)
    longest = usable_positions(config, size)
    usual = min(USUAL_POSITIONS, longest)
    usable -= _bytes_of_rows(config, dtype, PREFILL_ROWS)
    slots = min(most, max(usable // slot_bytes(config, dtype, usual, policy), 1))
    for_cache = usable // slots - slot_bytes(config, dtype, 0, policy)
    fitting = min(for_cache // bytes_per_position(config, dtype), longest) // size * size
    if fitting <= 0:
        raise UserError(
            f"{model.device} has too little free memory to decode one block of {size} tokens; use "
            "a device with more"
        )
    return Room(slots, fitting)


def _most_slots(requested: int | None) -> int:
    if requested is not None and requested < 1:
        raise UserError(f"slots: {requested} is not allowed; it should be at least 1")
    return MOST_SLOTS if requested is None else requested


def _usable_bytes(model: FusedModel) -> int:
    """Return the free memory that decoding plans with; idle engines are dropped if need be."""
    idle = sum(engine.cache.bytes for engine in model.idle_engines)
    return int((free_bytes(model.device) + idle) * USABLE.get(model.device.type, 0.5))


def decoding_bytes(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, length: int, policy: Policy
) -> int:
    """Return the free bytes with which `choose_slots` lets one sequence of `length` in."""
    needed = _bytes_of_rows(config, dtype, PREFILL_ROWS)
    needed += slot_bytes(config, dtype, length, policy)
    return int(needed / USABLE.get(device.type, 0.5))


def scoring_bytes(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, length: int
) -> int:
    """Return the free bytes with which log-likelihoods of inputs of `length` can be computed.

    Half of what is usable is for keys and values, the other half for passes.
    """
    return int(2 * length * bytes_per_position(config, dtype) / USABLE.get(device.type, 0.5))


def slot_bytes(config: ModelConfig, dtype: torch.dtype, length: int, policy: Policy) -> int:
    """Return the bytes of one sequence of up to `length` positions: cache, rows, logits, spans."""
    settings = policy.settings
    cache = length * bytes_per_position(config, dtype)
    # Logits in the model's dtype, in float32, and their softmax.
    window = settings.small_block_size * (1 + settings.lookahead_depth)
    rows_read = min(window, settings.block_size)
    logits = rows_read * config.vocab_size * (dtype.itemsize + 8)
    block = settings.block_size * config.hidden_size * dtype.itemsize
    spans = 2 * len(policy.layer_spans) * block
    return cache + logits + spans + _bytes_of_rows(config, dtype, settings.block_size)


def _bytes_of_rows(config: ModelConfig, dtype: torch.dtype, rows: int) -> int:
    """Return the bytes of the activations of one layer; those of one layer are alive at a time."""
    heads = 2 * (config.num_heads + config.num_kv_heads)
    widths = 3 * config.hidden_size + heads * config.head_dim + 3 * config.intermediate_size
    return rows * widths * dtype.itemsize


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
