"""Answers when memory runs out: fewer sequences at once, and the same tokens.

Nothing is taken from others: a GPU's allocator is told to refuse, and a CPU's engine pretends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from benchmarks.gpu.work import DIRECT, Work
from fastdllm.common.errors import UserError
from fastdllm.decoding.events import Event, OutOfMemory, SlotsChosen
from fastdllm.decoding.loop import decode
from fastdllm.decoding.sequence import Request
from fastdllm.engine.cache import bytes_per_position
from fastdllm.engine.engines import Engine, drop_idle
from fastdllm.model.fused import FusedModel
from fastdllm.policy import default_policy
from fastdllm.settings import DecodingSettings
from fastdllm.tools.bench.workload import Prompts, random_prompts

SETTINGS = DecodingSettings(max_new_tokens=16, mask_id=255, stop_token=254)
SHARES = (0.9, 0.7, 0.5, 0.3)


def run(work: Work) -> None:
    """Decode with less and less memory.

    Raises:
        UserError: it never ran out, so nothing was seen.
    """
    model = work.golden("m14")
    slots, length = (8, 40) if work.small else (64, 480)
    prompts = random_prompts(model.config, [length] * slots)
    expected, _ = answers_of(model, prompts, slots)
    needed = bytes_of_decoding(model, prompts, slots)
    fewer, _ = answers_of(model, prompts, slots // 8)
    work.tell(
        f"golden model m14, {slots // 8} of {slots} sequences at once",
        "the same answers" if fewer == expected else "OTHER ANSWERS",
        holds=fewer == expected,
    )
    ran_out = False
    for share in SHARES:
        drop_idle(model)
        with at_most(work, model, int(share * needed)):
            answers, events = answers_of(model, prompts, slots)
        opened = next(event.slots for event in events if isinstance(event, SlotsChosen))
        halved = [event.slots for event in events if isinstance(event, OutOfMemory)]
        ran_out = ran_out or opened < slots or bool(halved)
        then = f", while decoding {' and '.join(map(str, halved))}" if halved else ""
        work.tell(
            f"golden model m14, {share:.0%} of the memory for {slots} sequences",
            f"{opened} at once{then}: "
            + ("the same answers" if answers == expected else "OTHER ANSWERS"),
            holds=answers == expected,
            slots_at_first=opened,
            slots_later=halved,
        )
    if not ran_out:
        raise UserError("memory never ran out, so nothing was seen of it")


def answers_of(
    model: FusedModel, prompts: Prompts, slots: int
) -> tuple[list[Sequence[int]], list[Event]]:
    """Decode; return the ids of each answer, and the events."""
    events: list[Event] = []
    answers: dict[int, Sequence[int]] = {}
    policy = default_policy(SETTINGS, model.config.num_layers)
    requests = [Request(prompt) for prompt in prompts]
    for step in decode(model, requests, policy, slots=slots, observe=events.append):
        if step.finished is not None:
            answers[step.request] = step.finished.token_ids
    return [answers[index] for index in range(len(prompts))], events


def bytes_of_decoding(model: FusedModel, prompts: Prompts, slots: int) -> int:
    """Return what decoding takes beside the weights: all of it on a GPU, the cache on a CPU."""
    if model.device.type != "cuda":
        return model.idle_engines[0].cache.bytes
    drop_idle(model)
    torch.cuda.reset_peak_memory_stats(model.device)
    before = torch.cuda.memory_reserved(model.device)
    answers_of(model, prompts, slots)
    return torch.cuda.max_memory_reserved(model.device) - before


@contextmanager
def at_most(work: Work, model: FusedModel, count: int) -> Iterator[None]:
    """Let decoding have `count` bytes beside the weights, while the context lasts."""
    device = work.device
    if device.type == "cuda":
        whole = torch.cuda.get_device_properties(device).total_memory
        share = (torch.cuda.memory_reserved(device) + count) / whole
        torch.cuda.set_per_process_memory_fraction(share, device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        return
    unlimited = model.make_engine

    def limited(model: FusedModel, capacity: int) -> Engine:
        if capacity * bytes_per_position(model.config, model.dtype) > count:
            raise torch.OutOfMemoryError("no memory for this cache (as told)")
        return work.engine(model, DIRECT, capacity)

    model.make_engine = limited
    try:
        yield
    finally:
        model.make_engine = unlimited
