"""The decoding loop over a list of requests: a generator of denoising steps.

Everything that decodes a list of requests (commands, evaluation, benchmarks) uses `decode`, which
lets a `Decoder` (decoder.py) run pass after pass, and yields one `Step` per sequence and pass.
Knows nothing of tokenizers, tasks or files. Rules: docs/decoding.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch

from fastdllm.common.errors import UserError
from fastdllm.decoding.admission import start_sequences
from fastdllm.decoding.decoder import Decoder
from fastdllm.decoding.events import Observer
from fastdllm.decoding.memory import choose_slots
from fastdllm.decoding.outcomes import Step
from fastdllm.decoding.rules import check_spans
from fastdllm.decoding.scheduler import Scheduler
from fastdllm.decoding.sequence import Generation, Request
from fastdllm.model.fused import FusedModel, fused
from fastdllm.model.plain import BlockDiffusionModel
from fastdllm.policy import Policy, default_policy
from fastdllm.settings import DecodingSettings


def generate(
    model: FusedModel | BlockDiffusionModel,
    prompts: Iterable[Request | Sequence[int]],
    settings: DecodingSettings | None = None,
    policy: Policy | None = None,
    *,
    slots: int | None = None,
) -> list[Generation]:
    """Answer `prompts` (token ids, or `Request`s) together; answers come in the order given.

    A prompt that does not fit the model is refused alone: its answer has the finish reason
    `refused` and the error.

    Args:
        settings: default: those of the policy, or the published ones.
        policy: default: the built-in one that the settings describe.
        slots: most sequences in flight; default: what memory allows (see `decode`).

    Raises:
        UserError: a setting or the policy does not fit the model, the policy was made for other
            settings, or not even one prompt fits the memory.
    """
    if policy is None:
        policy = default_policy(settings or DecodingSettings(), model.config.num_layers)
    elif settings is not None and settings != policy.settings:
        raise UserError("the policy was made for other settings; give settings or a policy")
    requests = [p if isinstance(p, Request) else Request(tuple(p)) for p in prompts]
    answers: dict[int, Generation] = {}
    for step in decode(model, requests, policy, slots=slots):
        if step.finished is not None:
            answers[step.request] = step.finished
    return [answers[index] for index in range(len(requests))]


def decode(
    model: FusedModel | BlockDiffusionModel,
    requests: Sequence[Request],
    policy: Policy,
    *,
    slots: int | None = None,
    observe: Observer | None = None,
) -> Iterator[Step]:
    """Decode `requests` together and yield a `Step` per sequence and pass, in a fixed order.

    Requests enter free slots as others finish, in the order of the list, and each pass runs the
    rows that all sequences in flight need next. A request that does not fit the model is refused
    alone.

    Args:
        policy: decides, and holds the settings.
        slots: most sequences in flight, fewer where memory does not allow them; default: what
            memory allows, up to a fixed number.
        observe: called with the number of slots, with each request that enters one, with each pass,
            and when memory runs out, which halves the slots.

    Source: Fast-dLLM v2 (arXiv 2509.26328), with the corrections in docs/decoding.md.

    Raises:
        UserError: a setting does not fit the model, or not even one request fits the memory.
        PolicyViolation: the policy asked for what block diffusion does not allow.
        NotFinite: the model gave logits that are NaN or infinite.
    """
    with torch.inference_mode():
        model = fused(model)
    check_spans(policy, model.config.num_layers)
    admitted = start_sequences(model.config, requests, policy.settings)
    for index, outcome in admitted.outcomes.items():
        yield Step(request=index, kind=None, finished=outcome)
    sequences = admitted.sequences
    if not sequences:
        return
    lengths = [sequence.capacity for sequence in sequences]
    chosen = choose_slots(model, lengths, policy=policy, requested=slots)
    with torch.inference_mode():
        scheduler = Scheduler(model, sequences, policy=policy, slots=chosen)
    decoder = Decoder(scheduler, policy, observe=observe)
    try:
        while not decoder.is_idle:
            yield from decoder.tick()
    finally:
        decoder.close()
