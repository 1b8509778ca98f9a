"""The only decoding loop of the project: a generator of denoising steps.

Everything that decodes (commands, evaluation, benchmarks) uses `decode`. It follows the rules of
batch size 1 for each sequence, whatever shares its batch, and yields one `Step` per sequence and
pass. Knows nothing of tokenizers, tasks or files. Rules: docs/decoding.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch

from fastdllm.common.errors import UserError
from fastdllm.decoding.admission import start_sequences
from fastdllm.decoding.events import Entered, Event, Observer, OutOfMemory, PassRecord, SlotsChosen
from fastdllm.decoding.memory import choose_slots
from fastdllm.decoding.outcomes import Step, denoised, results
from fastdllm.decoding.passes import PassRunner
from fastdllm.decoding.proposals import Proposals, propose, propose_again, with_ahead
from fastdllm.decoding.rules import check_spans
from fastdllm.decoding.scheduler import Scheduler
from fastdllm.decoding.sequence import Generation, Request
from fastdllm.decoding.work import Work
from fastdllm.engine.batch import Segment
from fastdllm.machine.device import is_out_of_memory
from fastdllm.model.fused import FusedModel, fused
from fastdllm.model.plain import BlockDiffusionModel
from fastdllm.policy import PassKind, Policy, default_policy
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


@torch.inference_mode()
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
    scheduler = Scheduler(model, sequences, policy=policy, slots=chosen)
    notify = observe or _ignore
    notify(SlotsChosen(scheduler.slots))
    try:
        while scheduler.admit():
            for index in scheduler.entered:
                notify(Entered(index))
            yield from _tick(scheduler, policy, model.config.num_layers, notify)
    finally:
        scheduler.close()


def _ignore(event: Event) -> None:
    """The `Observer` of callers that pass none."""


def _tick(
    scheduler: Scheduler, policy: Policy, num_layers: int, notify: Observer
) -> Iterator[Step]:
    """One pass of the engine, after the reused passes of its sequences.

    If memory runs out, it ends early with fewer slots, and the next tick does the rest.
    """
    works = scheduler.works(scheduler.running)
    while reused := [work for work in works if work.kind is PassKind.REUSED]:
        # Reused passes run nothing, so what follows them can join the pass of the others.
        proposals = _guarded(scheduler, reused, partial(_propose_again, policy, reused), notify)
        if proposals is None:
            return
        for work in reused:
            work.layers_skipped = num_layers
        yield from denoised(policy, reused, proposals, num_layers)
        unfinished = [w.sequence for w in reused if w.sequence.finish_reason is None]
        works = [w for w in works if w not in reused] + scheduler.works(unfinished)
    if not works:
        return
    works.sort(key=lambda work: work.sequence.slot)
    engine = scheduler.runner.engine
    started, recorded = time.perf_counter(), engine.recording_s
    segments = [segment for work in works for segment in work.segments()]
    run = partial(_run_pass, scheduler.runner, works, segments)
    proposals = _guarded(scheduler, works, run, notify)
    if proposals is None:
        return
    scheduler.runner.finish(works)
    recording_s = engine.recording_s - recorded
    seconds = time.perf_counter() - started - recording_s
    notify(PassRecord.of(segments, seconds, recording_s))
    yield from results(policy, works, proposals, num_layers)


def _run_pass(runner: PassRunner, works: list[Work], segments: list[Segment]) -> list[Proposals]:
    logits = runner.run(works, segments)
    proposals = propose(works, logits, works[0].sequence.mask_id, runner.model.dtype)
    return [with_ahead(work, proposed) for work, proposed in zip(works, proposals, strict=True)]


def _propose_again(policy: Policy, works: list[Work]) -> list[Proposals]:
    return [propose_again(policy, work.sequence, work.window) for work in works]


def _guarded(
    scheduler: Scheduler,
    works: list[Work],
    run: Callable[[], list[Proposals]],
    notify: Observer,
) -> list[Proposals] | None:
    """Return what `run` returns; None if it ran out of memory, with fewer slots from now on."""
    generators = [work.sequence.generator for work in works if work.is_sampled]
    states = [generator.get_state() for generator in generators]
    try:
        return run()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
    # After the handler, whose traceback holds what the pass had allocated.
    slots_before = scheduler.slots
    scheduler.halve()
    notify(OutOfMemory(slots_before, scheduler.slots))
    return None
