"""Continuous batching: which requests are in flight, and what each does in the next pass.

Requests enter the lowest free slot in the order in which they came, as soon as one is free; so the
slot of a request of a list depends on the list alone. Owns the slots, the cache extents and the
runner of passes. Knows the order of passes in a sequence; knows nothing of the values of tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import Tensor

from fastdllm.common.errors import UserError
from fastdllm.decoding.memory import PREFILL_ROWS
from fastdllm.decoding.passes import PassRunner
from fastdllm.decoding.prefixes import PrefixStore
from fastdllm.decoding.rules import check_pass, chosen_pass, violation
from fastdllm.decoding.sequence import DecodedSequence
from fastdllm.decoding.work import Work
from fastdllm.engine.cache import KVCache
from fastdllm.engine.engines import drop_idle, give_back, take_engine
from fastdllm.machine.device import is_out_of_memory
from fastdllm.model.fused import FusedModel
from fastdllm.policy import PassKind, Policy


@dataclass(frozen=True, slots=True)
class _Parked:
    """A sequence that lost its slot, with copies of its cache and spans."""

    sequence: DecodedSequence
    saved: Tensor
    spans: list[Tensor]


class Scheduler:
    """The requests of one decoding, in `slots` slots that share `room` positions of the cache.

    running: sequences in flight, in the order of their slots. entered: the requests that the last
    call of `admit` admitted for the first time.
    """

    def __init__(
        self,
        model: FusedModel,
        sequences: Sequence[DecodedSequence] = (),
        *,
        policy: Policy,
        slots: int,
        positions_per_slot: int | None = None,
        prefixes: PrefixStore | None = None,
    ) -> None:
        """Allocate the cache.

        Args:
            policy: decides for `sequences`; the spans and the block size of those added later are
                the same.
            positions_per_slot: of the cache, on average, for sequences that come later; default:
                as many as the longest of `sequences` need.
            prefixes: where prompts begin from, and what ended sequences leave their blocks to.
        """
        self.model, self.policy = model, policy
        self.running: list[DecodedSequence] = []
        self.entered: list[int] = []
        self._waiting: deque[DecodedSequence] = deque()
        self._parked: deque[_Parked] = deque()
        self._runner: PassRunner | None = None
        self._positions_per_slot = positions_per_slot
        self._prefixes = prefixes
        for sequence in sequences:
            self.add(sequence, policy)
        self._open(slots)

    def add(self, sequence: DecodedSequence, policy: Policy) -> None:
        """Let a sequence wait for a slot, behind those that came before it."""
        sequence.policy = policy
        self._waiting.append(sequence)

    def _open(self, slots: int) -> None:
        """Allocate `slots` for the remaining sequences, or half as many until they fit."""
        while not self._try_open(slots):
            if slots == 1:
                raise _too_little_memory()
            slots //= 2

    def _try_open(self, slots: int) -> bool:
        remaining = [*self._waiting, *(parked.sequence for parked in self._parked)]
        lengths = sorted((sequence.capacity for sequence in remaining), reverse=True)[:slots]
        room = sum(lengths)
        if self._positions_per_slot is not None:
            room = max([slots * self._positions_per_slot, *lengths[:1]])
        try:
            engine = take_engine(self.model, room)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
        self.slots, self.room = slots, room
        self._runner = PassRunner(
            self.model,
            policy=self.policy,
            engine=engine,
            slots=slots,
            block_size=self.policy.settings.block_size,
        )
        return True

    def close(self) -> None:
        """Return the engine, for the next decoding; what is in flight is dropped."""
        if self._runner is not None:
            while self.running:
                self._retire(self.running[-1])
            give_back(self.model, self._runner.engine)
            self._runner = None

    @property
    def runner(self) -> PassRunner:
        """The runner of passes, until `close`."""
        assert self._runner is not None
        return self._runner

    @property
    def cache(self) -> KVCache:
        """Keys and values of the sequences in flight."""
        return self.runner.engine.cache

    def admit(self) -> bool:
        """Retire finished sequences and fill free slots; False if nothing is left to decode."""
        for sequence in [s for s in self.running if s.finish_reason is not None]:
            if self._prefixes is not None:
                self._prefixes.keep(sequence, self.cache)
            self._retire(sequence)
        self.entered = []
        used_slots = {sequence.slot for sequence in self.running}
        for slot in range(self.slots):
            if slot in used_slots:
                continue
            if not self._enter(slot):
                break
        self.running.sort(key=lambda sequence: sequence.slot)
        return bool(self.running)

    def _retire(self, sequence: DecodedSequence) -> None:
        """Free the slot and the extent of a sequence."""
        self.running.remove(sequence)
        sequence.stored = None
        self.cache.release(sequence.cache_start, sequence.capacity)
        self.runner.spans.drop(sequence.slot)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits, and every slot is free."""
        return not (self.running or self._waiting or self._parked)

    def cancel(self, requests: Collection[int]) -> list[DecodedSequence]:
        """End those of `requests` that are not finished; return their sequences, in flight first.

        The next call of `admit` frees their slots.
        """
        parked = [parked.sequence for parked in self._parked]
        ended = [
            sequence
            for sequence in (*self.running, *parked, *self._waiting)
            if sequence.index in requests and sequence.finish_reason is None
        ]
        for sequence in ended:
            sequence.finish_reason = "cancelled"
        self._parked = deque(p for p in self._parked if p.sequence.finish_reason is None)
        self._waiting = deque(s for s in self._waiting if s.finish_reason is None)
        return ended

    def _enter(self, slot: int) -> bool:
        """Put the next sequence into `slot`; False if there is none, or no free extent."""
        parked = self._parked[0] if self._parked else None
        if parked is None and not self._waiting:
            return False
        sequence = parked.sequence if parked is not None else self._waiting[0]
        start = self.cache.allocate(sequence.capacity)
        if start is None:
            return False
        sequence.slot, sequence.cache_start = slot, start
        if parked is not None:
            self.cache.restore(start, parked.saved)
            self.runner.spans.restore(slot, parked.spans)
            self._parked.popleft()
        else:
            if self._prefixes is not None and not sequence.from_scratch:
                self._prefixes.restore(sequence, self.cache)
            self._waiting.popleft()
            self.entered.append(sequence.index)
        self.running.append(sequence)
        return True

    def works(self, sequences: Sequence[DecodedSequence]) -> list[Work]:
        """Return what each of `sequences` does next; prompts beyond their share of rows wait."""
        works, prompt_rows = [], 0
        for sequence in sequences:
            if sequence.needs_prefill:
                room = max(PREFILL_ROWS - prompt_rows, 0) // sequence.block_size
                if room == 0 and prompt_rows:
                    continue
                work = _prefill(sequence, max(room, 1))
                prompt_rows += work.width
                works.append(work)
            elif sequence.is_full:
                size = sequence.block_size
                works.append(Work(sequence, PassKind.COMMIT, width=size, read=(size - 1, size)))
            else:
                works.append(self._denoising(sequence))
        return works

    def _denoising(self, sequence: DecodedSequence) -> Work:
        state = sequence.state()
        policy = sequence.policy
        kind = chosen_pass(policy, state)
        if kind in (PassKind.PREFILL, PassKind.COMMIT):
            # Skipping a commit, or adding one, would leave a ragged prefix cache.
            raise violation(policy, f"asked for a {kind} pass; only the decoder decides those")
        window = policy.window(state, kind)
        check_pass(policy, kind=kind, window=window, state=state)
        if kind is PassKind.REUSED:
            return Work(sequence, kind, width=0, state=state, window=window)
        offset, width, (start, stop) = 0, sequence.block_size, window
        if kind is PassKind.SUB_BLOCK:
            width = sequence.small_block_size
            offset = state.sub_block * width
            stop = min(stop, offset + width)  # what is ahead was predicted before
        first = max(start - 1 - offset, 0)
        return Work(
            sequence,
            kind,
            width=width,
            offset=offset,
            state=state,
            window=window,
            computed_window=(start, stop),
            read=(first, max(stop - 1 - offset, first + 1)),
        )

    def halve(self) -> None:
        """Continue with half as many slots; sequences that lose theirs wait, their state saved.

        Raises:
            UserError: there is only one slot.
        """
        in_flight = [s for s in self.running if s.finish_reason is None]
        # A room that does not follow from the sequences shrinks with its slots, used or not.
        is_fixed = self._positions_per_slot is not None
        slots = self.slots if is_fixed else min(self.slots, len(in_flight))
        if slots <= 1:
            raise _too_little_memory()
        cache, spans = self.cache, self.runner.spans
        saved = [
            _Parked(s, cache.save(s.cache_start, s.written), spans.save(s.slot)) for s in in_flight
        ]
        self._parked.extendleft(reversed(saved))
        self.running = []
        del cache, spans
        self._runner = None
        drop_idle(self.model)
        self._open(slots // 2)


def _too_little_memory() -> UserError:
    return UserError(
        "out of memory with one sequence at a time; shorten the prompt or max_new_tokens, or use a "
        "device with more memory"
    )


def _prefill(sequence: DecodedSequence, room: int) -> Work:
    """Return the next piece of a prompt: at most `room` whole blocks."""
    blocks = sequence.prompt_length // sequence.block_size
    stop = min(sequence.prefilled + room, blocks)
    ends_with_block = stop == blocks and sequence.prompt_length == blocks * sequence.block_size
    size = sequence.block_size
    return Work(
        sequence,
        PassKind.PREFILL,
        width=(stop - sequence.prefilled) * size,
        blocks=(sequence.prefilled, stop),
        read=(size - 1, size) if ends_with_block else (0, 0),
    )
