"""One model for many users: a decoding thread, requests that come and go, a stream for each.

Requests whose settings a batch cannot mix are decoded in lanes, one decoder each, which take turns.
Knows no network, page or text.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import count
from threading import Condition, Thread
from traceback import clear_frames
from types import TracebackType

from fastdllm.common.errors import UserError
from fastdllm.decoding.admission import BatchKey, batch_key, start_sequence
from fastdllm.decoding.decoder import Decoder
from fastdllm.decoding.events import Event, PassRecord
from fastdllm.decoding.outcomes import Step
from fastdllm.decoding.prefixes import PrefixStore
from fastdllm.decoding.sequence import Generation, PassCounts, Request
from fastdllm.engine.engines import drop_idle
from fastdllm.model.fused import FusedModel, fused
from fastdllm.model.plain import BlockDiffusionModel
from fastdllm.policy import PassKind, Policy, default_policy
from fastdllm.serving.fair_queue import FairQueue
from fastdllm.serving.streams import Stream
from fastdllm.settings import DecodingSettings

MOST_WAITING = 64
PREFIX_BYTES = 2**30
# Of the memory that is left, what a lane's cache takes: the next lane must find some, too.
SHARE_OF_A_LANE = 0.5
MOST_LANES = 4

LaneKey = tuple[type[Policy], BatchKey]


class Overloaded(UserError):
    """As many requests wait as may, of all users or of this one; try again later."""


class Closed(UserError):
    """The service was closed."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Counts since the start, and how many requests decode and wait now.

    tokens: generated ones, of answers that have ended. passes: of sequences, by kind;
    engine_passes: of the engine, which runs the rows of all sequences at once. answers: by finish
    reason. failed: requests that an error ended. slots: of the open lanes. kept_bytes: of prefixes.
    """

    tokens: int
    passes: dict[PassKind, int]
    engine_passes: int
    answers: dict[str, int]
    failed: int
    decoding: int
    waiting: int
    slots: int
    lanes: int
    kept_bytes: int


@dataclass(eq=False, slots=True)
class _Asked:
    """A request, and where its steps go.

    number: in order of arrival. index: in its lane's decoder, once it is there. error: what its
    `stop_when` raised.
    """

    number: int
    request: Request
    policy: Policy
    key: LaneKey
    user: Hashable
    stream: Stream
    index: int | None = None
    error: Exception | None = None

    def guarded(self) -> Request:
        """Return the request, which an error in its `stop_when` ends alone."""
        stop_when = self.request.stop_when
        if stop_when is None:
            return self.request

        def ended(token_ids: Sequence[int]) -> bool:
            try:
                return bool(stop_when(token_ids))
            except Exception as error:
                self.error = error
                return True

        return replace(self.request, stop_when=ended)


@dataclass(eq=False, slots=True)
class _Lane:
    """A decoder, and the requests in it by their index; slots_at_first: before memory ran out."""

    decoder: Decoder
    slots_at_first: int
    asked: dict[int, _Asked] = field(default_factory=dict)

    @property
    def has_free_slot(self) -> bool:
        return len(self.asked) < self.decoder.scheduler.slots


class Service:
    """Decodes for many at once on a thread of its own, until `close`.

    Each answer has the tokens that `generate` gives for its request alone.
    """

    def __init__(
        self,
        model: FusedModel | BlockDiffusionModel,
        *,
        slots: int | None = None,
        most_waiting: int = MOST_WAITING,
        prefix_bytes: int = PREFIX_BYTES,
    ) -> None:
        """Start the thread; memory is taken when the first request comes.

        Args:
            slots: most sequences in flight per lane; default: what memory allows, up to a number.
            most_waiting: requests of a user that may wait for a slot while no other user waits;
                further ones are refused. Of all users together twice as many may wait, and each may
                have as many as there are places left, so that nobody can take them all.
            prefix_bytes: most host memory for what is kept of earlier requests.
        """
        self._model, self._slots, self._most_waiting = fused(model), slots, most_waiting
        self._prefixes = PrefixStore(prefix_bytes)
        num_layers = self._model.config.num_layers
        # Requests with the same settings have the same policy, which decides for them together;
        # which of the fields were set counts, too (`check_block_size`).
        self._policy_of: Callable[[DecodingSettings, frozenset[str]], Policy] = lru_cache(64)(
            lambda settings, _: default_policy(settings, num_layers)
        )
        # Guards all below; lanes are changed by the decoding thread only.
        self._changed = Condition()
        self._waiting: FairQueue[_Asked] = FairQueue()
        self._numbers = count()
        self._asked: dict[Stream, _Asked] = {}
        self._cancelled: list[_Asked] = []
        self._lanes: dict[LaneKey, _Lane] = {}
        self._is_closing = False
        self._passes: Counter[PassKind] = Counter()
        self._answers: Counter[str] = Counter()
        self._tokens = self._engine_passes = self._failed = 0
        self._thread = Thread(target=self._run, name="decoding", daemon=True)
        self._thread.start()

    def submit(
        self,
        request: Request,
        settings: DecodingSettings | None = None,
        policy: Policy | None = None,
        *,
        user: Hashable = None,
    ) -> Stream:
        """Let a request wait for its turn, and return its stream.

        A request that does not fit the model has its answer at once: refused, with the reason.

        Args:
            settings: default: those of the policy, or the published ones.
            policy: default: the built-in one that the settings describe.
            user: takes turns with others who wait, and shares the places with them.

        Raises:
            UserError: a setting does not fit the model, or the policy has other settings.
            PolicyViolation: the spans of the policy do not fit the model.
            Overloaded: too many wait, or too many of this user.
            Closed: the service was closed.
        """
        if policy is None:
            settings = settings or DecodingSettings()
            policy = self._policy_of(settings, frozenset(settings.model_fields_set))
        elif settings is not None and settings != policy.settings:
            raise UserError("the policy was made for other settings; give settings or a policy")
        config = self._model.config
        key = (type(policy), batch_key(config, policy))
        stream = Stream(self)
        # Here, so that what is refused costs the decoding thread nothing.
        started = start_sequence(config, 0, request, policy.settings)
        with self._changed:
            if self._is_closing:
                raise Closed("the service was closed; start another")
            if isinstance(started, Generation):
                self._finish(stream, started)
                return stream
            if not self._waiting.has_place(user, 2 * self._most_waiting):
                raise Overloaded(
                    f"{len(self._waiting)} requests wait already, {self._waiting.count(user)} of "
                    "this user; try again in a moment"
                )
            asked = _Asked(next(self._numbers), request, policy, key, user, stream)
            self._asked[stream] = asked
            self._waiting.put(user, asked)
            self._changed.notify()
        return stream

    def cancel(self, stream: Stream) -> None:
        """End a stream within one pass; without effect if it has ended."""
        with self._changed:
            asked = self._asked.get(stream)
            if asked is None:
                return
            if self._waiting.remove(asked.user, asked):
                self._finish(stream, Generation([], "cancelled", PassCounts()))
            else:
                self._cancelled.append(asked)
                self._changed.notify()

    def place(self, stream: Stream) -> int:
        """Place of a stream in the queue, 1 for the next one; 0 is in decoding, or over."""
        with self._changed:
            asked = self._asked.get(stream)
            return 0 if asked is None else self._waiting.place(asked.user, asked) or 0

    @property
    def is_open(self) -> bool:
        """Whether it takes requests."""
        with self._changed:
            return not self._is_closing

    def figures(self) -> Figures:
        """What was decoded so far, and what is going on."""
        with self._changed:
            lanes = list(self._lanes.values())
            return Figures(
                tokens=self._tokens,
                passes=dict(self._passes),
                engine_passes=self._engine_passes,
                answers=dict(self._answers),
                failed=self._failed,
                decoding=sum(len(lane.asked) for lane in lanes),
                waiting=len(self._waiting),
                slots=sum(lane.decoder.scheduler.slots for lane in lanes),
                lanes=len(lanes),
                kept_bytes=self._prefixes.bytes,
            )

    def close(self) -> None:
        """End all streams, which fail with `Closed`, and the thread."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()

    def __enter__(self) -> Service:
        """Close the service at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self) -> None:
        """Decode until `close`: one pass of each lane, then whoever came meanwhile."""
        try:
            while self._admit():
                for key, lane in list(self._lanes.items()):
                    if lane.asked or not lane.decoder.is_idle:
                        self._tick(key, lane)
        finally:
            error = Closed("the service was closed before the answer was whole")
            with self._changed:
                self._is_closing = True
                for lane in self._lanes.values():
                    lane.decoder.close()
                self._lanes.clear()
                for asked in list(self._asked.values()):
                    self._fail(asked, error)
                self._waiting = FairQueue()

    def _admit(self) -> bool:
        """Wait until there is something to decode, and fill free slots; False once closed."""
        with self._changed:
            self._changed.wait_for(self._has_work)
            if self._is_closing:
                return False
            for ended in self._cancelled:
                if ended.index is not None and ended.stream in self._asked:
                    self._lanes[ended.key].decoder.cancel(ended.index)
            self._cancelled.clear()
            self._close_idle_lanes()
        while True:
            with self._changed:
                barrier = self._first_without_lane()
                asked = self._waiting.take(partial(self._has_room, barrier=barrier))
                if asked is None:
                    return True
                lane = self._lanes.get(asked.key)
            try:
                lane = lane or self._open(asked)
                index = lane.decoder.add(asked.guarded(), asked.policy)
            except UserError as error:
                with self._changed:
                    self._fail(asked, error)
                continue
            with self._changed:
                asked.index = index
                lane.asked[index] = asked
                asked.stream.begin()

    def _has_work(self) -> bool:
        # A lane that is not idle has freed no slot of its last answers yet.
        lanes = self._lanes.values()
        return (
            self._is_closing
            or any(lane.asked or not lane.decoder.is_idle for lane in lanes)
            or len(self._waiting) > 0
        )

    def _first_without_lane(self) -> float:
        """Return the number of the first request that no lane can be opened for, or infinity.

        Who came after it waits, until a lane is idle and gives way: else full lanes might stay so.
        """
        if len(self._lanes) < MOST_LANES:
            return math.inf
        without = (asked.number for asked in self._waiting if asked.key not in self._lanes)
        return min(without, default=math.inf)

    def _has_room(self, asked: _Asked, *, barrier: float) -> bool:
        lane = self._lanes.get(asked.key)
        if lane is None:
            return len(self._lanes) < MOST_LANES
        return lane.has_free_slot and asked.number < barrier

    def _close_idle_lanes(self) -> None:
        """Give up the caches of idle lanes; the last one stays, unless memory has run out in it."""
        barrier = self._first_without_lane()
        others = {asked.key for asked in self._waiting if asked.number < barrier}
        for key, lane in list(self._lanes.items()):
            is_whole = lane.decoder.scheduler.slots == lane.slots_at_first
            is_needed = key in others or (not self._waiting and len(self._lanes) == 1)
            if lane.decoder.is_idle and not (is_whole and is_needed):
                self._lanes.pop(key).decoder.close()

    def _open(self, asked: _Asked) -> _Lane:
        """Open a lane; its memory may take a while, so nobody is held up meanwhile."""
        decoder = Decoder.live(
            self._model,
            asked.policy,
            slots=self._slots,
            share=SHARE_OF_A_LANE,
            prefixes=self._prefixes,
            observe=self._observe,
        )
        lane = _Lane(decoder, decoder.scheduler.slots)
        with self._changed:
            self._lanes[asked.key] = lane
        return lane

    def _observe(self, event: Event) -> None:
        if isinstance(event, PassRecord):
            with self._changed:
                self._engine_passes += 1

    def _tick(self, key: LaneKey, lane: _Lane) -> None:
        """Run a pass of a lane; an error ends the lane and its streams, and no other."""
        steps: list[Step] = []
        try:
            steps.extend(lane.decoder.tick())
        except Exception as error:  # a policy is a program, which may raise anything
            self._deliver(lane, steps)
            # Its frames hold tensors of the pass, and a stream may keep the error for long.
            clear_frames(error.__traceback__)
            with self._changed:
                del self._lanes[key]
                for asked in lane.asked.values():
                    self._fail(asked, error)
            lane.decoder.close()
            # Numbers that are none may be left in the cache.
            drop_idle(self._model)
        else:
            self._deliver(lane, steps)

    def _deliver(self, lane: _Lane, steps: Iterable[Step]) -> None:
        with self._changed:
            for step in steps:
                asked = lane.asked[step.request]
                if step.kind is not None:
                    self._passes[step.kind] += 1
                if step.finished is None:
                    asked.stream.add(step)
                    continue
                del lane.asked[step.request]
                if asked.error is not None:
                    self._fail(asked, asked.error)
                else:
                    self._finish(asked.stream, step.finished, step)

    def _finish(self, stream: Stream, answer: Generation, step: Step | None = None) -> None:
        self._asked.pop(stream, None)
        self._answers[answer.finish_reason] += 1
        self._tokens += len(answer.token_ids)
        stream.add(step or Step(0, kind=None, finished=answer))

    def _fail(self, asked: _Asked, error: Exception) -> None:
        del self._asked[asked.stream]
        self._failed += 1
        asked.stream.fail(error)
