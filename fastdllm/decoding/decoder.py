"""The decoder: one pass of the engine after the other, for requests that come and go meanwhile.

It follows the rules of batch size 1 for each sequence, whatever shares its batch. Knows nothing of
tokenizers, threads or users. Rules: docs/decoding.md.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count

import torch

from fastdllm.common.errors import UserError
from fastdllm.decoding.admission import batch_key, start_sequence
from fastdllm.decoding.events import Entered, Event, Observer, OutOfMemory, PassRecord, SlotsChosen
from fastdllm.decoding.memory import choose_room
from fastdllm.decoding.outcomes import Step, denoised, results
from fastdllm.decoding.passes import PassRunner
from fastdllm.decoding.prefixes import PrefixStore
from fastdllm.decoding.proposals import propose, propose_again, with_ahead
from fastdllm.decoding.scheduler import Scheduler
from fastdllm.decoding.sequence import DecodedSequence, Generation, PassCounts, Proposals, Request
from fastdllm.decoding.work import Work
from fastdllm.engine.batch import Segment
from fastdllm.machine.device import is_out_of_memory
from fastdllm.model.fused import FusedModel
from fastdllm.policy import PassKind, Policy


class Decoder:
    """Decodes requests that may be added and cancelled while others decode; for one thread.

    A request has the tokens that it has alone. All are decoded in the same number of tokens per
    block, with the same spans of layers and the same mask token (`batch_key`); all other settings
    are those of the request's own policy.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        policy: Policy,
        *,
        observe: Observer | None = None,
    ) -> None:
        """Decode what `scheduler` holds, and what is added; see also `live`.

        Args:
            policy: decides for requests that bring none.
            observe: called with the number of slots, with each request that enters one, with each
                pass, and when memory runs out, which halves the slots.
        """
        self.scheduler, self.policy = scheduler, policy
        self._config = scheduler.model.config
        self._notify = observe or _ignore
        self._key = batch_key(self._config, policy)
        self._indices = count()
        self._outcomes: deque[Step] = deque()
        self._cancelled: set[int] = set()
        self._notify(SlotsChosen(scheduler.slots))

    @classmethod
    def live(
        cls,
        model: FusedModel,
        policy: Policy,
        *,
        slots: int | None = None,
        share: float = 1.0,
        prefixes: PrefixStore | None = None,
        observe: Observer | None = None,
    ) -> Decoder:
        """Make room for requests that are not known yet.

        Args:
            slots: most sequences in flight; default: what memory allows, up to a fixed number.
            share: of the usable memory, what the cache may take.
            prefixes: keeps whole blocks of what has been decoded, for prompts that begin alike.

        Raises:
            UserError: a setting does not fit the model, or no sequence fits the memory.
            PolicyViolation: the spans of the policy do not fit the model.
        """
        batch_key(model.config, policy)
        room = choose_room(model, policy, requested=slots, share=share)
        scheduler = Scheduler(
            model,
            policy=policy,
            slots=room.slots,
            positions_per_slot=room.positions_per_slot,
            prefixes=prefixes,
        )
        return cls(scheduler, policy, observe=observe)

    @property
    def is_idle(self) -> bool:
        """Whether a tick would do nothing: no request waits, and every slot is free."""
        return self.scheduler.is_empty and not self._outcomes

    def add(self, request: Request, policy: Policy | None = None) -> int:
        """Let a request wait for a slot, behind those that came before it; return its index.

        A request that does not fit the model or the cache is refused alone: its only step, of the
        next tick, says why.

        Raises:
            UserError: a setting does not fit the model, or the policy has another `batch_key`.
            PolicyViolation: the spans of the policy do not fit the model.
        """
        policy = policy or self.policy
        if policy is not self.policy and batch_key(self._config, policy) != self._key:
            raise UserError(
                f"block_size {policy.settings.block_size}, layer_spans {policy.layer_spans!r}, "
                f"mask_id {policy.settings.mask_id}: not those of the sequences in this batch, "
                f"which have {self._key}; give the request a decoder of its own"
            )
        index = next(self._indices)
        started = start_sequence(self._config, index, request, policy.settings)
        if isinstance(started, DecodedSequence) and started.capacity > self.scheduler.room:
            error = (
                f"its {started.capacity} positions exceed the {self.scheduler.room} that "
                "memory holds; shorten the prompt or max_new_tokens"
            )
            started = Generation([], "refused", PassCounts(), error)
        if isinstance(started, Generation):
            self._outcomes.append(Step(index, kind=None, finished=started))
        else:
            self.scheduler.add(started, policy)
        return index

    def cancel(self, index: int) -> None:
        """End a request at the next tick, which frees its slot before others enter.

        Its last step has what is known of its answer, with the finish reason `cancelled`. Without
        effect on a request that is finished by then.
        """
        self._cancelled.add(index)

    def tick(self) -> Iterator[Step]:
        """Run one pass of the engine for all in flight; yield one step for each of them.

        To be drained, and then called again; `close` the decoder after an error.

        Raises:
            UserError: not even one sequence fits the memory.
            PolicyViolation: a policy asked for what block diffusion does not allow.
            NotFinite: the model gave logits that are NaN or infinite.
        """
        if self._cancelled:
            for sequence in self.scheduler.cancel(self._cancelled):
                step = Step(sequence.index, kind=None, finished=sequence.generation())
                self._outcomes.append(step)
            self._cancelled.clear()
        while self._outcomes:
            yield self._outcomes.popleft()
        groups = self._groups()
        while True:
            # Entered for each group of steps: for each step it would cost more than the step.
            with torch.inference_mode():
                steps = next(groups, None)
            if steps is None:
                return
            yield from steps

    def _groups(self) -> Iterator[list[Step]]:
        if self.scheduler.admit():
            for index in self.scheduler.entered:
                self._notify(Entered(index))
            yield from _tick(self.scheduler, self._config.num_layers, self._notify)

    @torch.inference_mode()
    def close(self) -> None:
        """Drop what is not finished, and give the cache back."""
        self.scheduler.close()


def _ignore(event: Event) -> None:
    """The `Observer` of callers that pass none."""


def _tick(scheduler: Scheduler, num_layers: int, notify: Observer) -> Iterator[list[Step]]:
    """One pass of the engine, after the reused passes of its sequences.

    If memory runs out, it ends early with fewer slots, and the next tick does the rest.
    """
    works = scheduler.works(scheduler.running)
    while reused := [work for work in works if work.kind is PassKind.REUSED]:
        # Reused passes run nothing, so what follows them can join the pass of the others.
        proposals = _guarded(scheduler, reused, partial(_propose_again, reused), notify)
        if proposals is None:
            return
        for work in reused:
            work.layers_skipped = num_layers
        yield from denoised([*zip(reused, proposals, strict=True)], num_layers)
        unfinished = [w.sequence for w in reused if w.sequence.finish_reason is None]
        works = [w for w in works if w.kind is not PassKind.REUSED] + scheduler.works(unfinished)
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
    yield from results(works, proposals, num_layers)


def _run_pass(
    runner: PassRunner, works: list[Work], segments: Sequence[Segment]
) -> list[Proposals]:
    logits = runner.run(works, segments)
    proposals = propose(works, logits, works[0].sequence.mask_id, runner.model.dtype)
    return [with_ahead(work, proposed) for work, proposed in zip(works, proposals, strict=True)]


def _propose_again(works: list[Work]) -> list[Proposals]:
    return [propose_again(work.sequence.policy, work.sequence, work.window) for work in works]


def _guarded(
    scheduler: Scheduler,
    works: list[Work],
    run: Callable[[], list[Proposals]],
    notify: Observer,
) -> list[Proposals] | None:
    """Return what `run` returns; None if it ran out of memory, with fewer slots from now on."""
    drawn_by = [work.sequence.generator for work in works if work.is_sampled]
    states = [(generator, generator.get_state()) for generator in drawn_by if generator]
    try:
        return run()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        for generator, state in states:
            generator.set_state(state)
    # After the handler, whose traceback holds what the pass had allocated.
    slots_before = scheduler.slots
    scheduler.halve()
    notify(OutOfMemory(slots_before, scheduler.slots))
    return None
