"""Answers that a page asks for: decoded by the service, followed in its event loop, kept as traces.

Knows no component of the page. An answer whose follower goes away, since the visitor closed the tab
or stopped, is cancelled.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from fastdllm.common.errors import UserError
from fastdllm.decoding.sequence import Generation, Request
from fastdllm.model.tokenizer import encode
from fastdllm.serving.conversation import Conversation, FittedPrompt, fitted, prompt_room
from fastdllm.serving.partial import PartialAnswer
from fastdllm.traces.parts import TracedStep
from fastdllm.traces.record import Trace
from fastdllm.traces.recording import RUNNERS_UP, TraceRecorder

if TYPE_CHECKING:
    from fastdllm.decoding.outcomes import Step
    from fastdllm.endpoint.served import Served
    from fastdllm.policy import Policy
    from fastdllm.serving.streams import Stream

# Between two updates of a page; a browser draws no faster than it has to.
PAUSE_S = 0.05
# Between two looks at the queue.
PLACE_S = 0.5
WARM_UP_TOKENS = 8
# Updates repeat the few before them, since a busy browser may leave some out.
REPEATED_UPDATES = 3


def _json_of(record: BaseModel) -> dict[str, Any]:
    return record.model_dump(mode="json", exclude_none=True)


class WatchedAnswer:
    """One answer: what is known of it by now, and what the denoising view is told.

    name: of its own. opening: its trace before the first step. seconds: of the decoding so far,
    without waiting. was_alone: whether nobody else was decoded meanwhile.
    """

    def __init__(
        self, answering: Answering, visitor: str, request: Request, policy: Policy
    ) -> None:
        self._answering, self._visitor = answering, visitor
        self._request, self._policy = request, policy
        self._recording = answering.recorder.start(request, policy)
        self._updates: deque[list[TracedStep]] = deque(maxlen=REPEATED_UPDATES)
        self._count = self._taken = 0
        self.name = token_urlsafe(8)
        self.settings = policy.settings
        self.opening = self._recording.trace()
        self.partial = PartialAnswer(
            len(request.prompt_ids),
            block_size=self.settings.block_size,
            most=request.max_new_tokens or self.settings.max_new_tokens,
        )
        self.place = 0
        self.seconds = 0.0
        self.was_alone = True

    @property
    def generation(self) -> Generation | None:
        """The answer, as soon as it is whole or was stopped."""
        return self.partial.generation

    async def warm_up(self) -> None:
        """Have a short answer decoded like it, so that it finds its memory in use."""
        await self._answering.warm_up(self._policy, self._visitor).answer()

    async def follow(self) -> AsyncGenerator[None]:
        """Ask for the answer; yield whenever there is something to show, and at its end.

        Raises:
            UserError: the request does not fit the model, or too many wait.
            Exception: what ended the decoding.
        """
        stream = self._answering.submit(self._visitor, self._request, self._policy)
        try:
            async with aclosing(stream.batches(pause_s=PAUSE_S, idle_s=PLACE_S)) as batches:
                async for steps in batches:
                    self.place = 0 if steps else stream.place
                    if steps:
                        self._take(steps, stream)
                    yield
        finally:
            stream.cancel()

    def _take(self, steps: Sequence[Step], stream: Stream) -> None:
        update = []
        for step in steps:
            if step.finished is not None and step.finished.error is not None:
                raise UserError(step.finished.error)
            self.seconds = stream.seconds(self._taken)
            self._taken += 1
            self.partial.add(step)
            recorded = self._recording.add(step, self.seconds)
            if recorded is not None:
                update.append(recorded)
        self._updates.append(update)
        self._count += len(update)
        figures = self._answering.served.service.figures()
        self.was_alone = self.was_alone and figures.decoding <= 1

    def latest(self) -> dict[str, Any]:
        """Return the latest steps as a trace has them, with the number of steps before them."""
        pieces = self._answering.recorder.pieces
        steps = [step for update in self._updates for step in update]
        tokens = {token for step in steps for token in step.token_ids()}
        return {
            "from": self._count - len(steps),
            "steps": [_json_of(step) for step in steps],
            "pieces": {str(token): _json_of(pieces[token]) for token in tokens},
        }

    def trace(self) -> Trace:
        """Return the trace; it checks itself, which takes a while for a long one."""
        return self._recording.trace()


class Answering:
    """Asks for answers on behalf of visitors, and ends them.

    A visitor is a tab of a browser, by the name that the page gives it.
    """

    def __init__(self, served: Served) -> None:
        self.served = served
        self.recorder = TraceRecorder(served.model, served.tokenizer, served.name, served.revision)
        # Of the visitors whose turn it is; None before the first answer.
        self._streams: dict[str, Stream | None] = {}
        self._stopped: set[str] = set()
        self._dropped: set[str] = set()

    def warm_up(self, policy: Policy, visitor: str = "") -> Stream:
        """Let a short answer be decoded, so that the next one does not wait for memory."""
        ids = encode(self.served.tokenizer, "1 + 1")
        request = Request(ids, max_new_tokens=WARM_UP_TOKENS, from_scratch=True)
        return self.served.service.submit(request, policy=policy, user=visitor)

    def example(self, question: str, policy: Policy) -> Trace | None:
        """Return the trace of an answer for all to see; None if the question does not fit."""
        prompt = Conversation().prompt_ids(self.served.tokenizer, question)
        request = Request(prompt, runners_up=RUNNERS_UP, from_scratch=True)
        recording = self.recorder.start(request, policy)
        stream = self.served.service.submit(request, policy=policy)
        for number, step in enumerate(stream):
            if step.finished is not None and step.finished.error is not None:
                return None
            recording.add(step, stream.seconds(number))
        return recording.trace()

    async def prompt(self, talk: Conversation, question: str, policy: Policy) -> FittedPrompt:
        """Return the prompt of a question; on another thread, as a long text takes a while.

        Raises:
            UserError: the question does not fit, or the chat template cannot write it.
        """
        room = prompt_room(self.served.model.config, policy.settings)
        return await asyncio.to_thread(fitted, talk, question, self.served.tokenizer, room=room)

    def answer(self, visitor: str, request: Request, policy: Policy) -> WatchedAnswer:
        """Return an answer to be followed; request: asks for runners-up."""
        return WatchedAnswer(self, visitor, request, policy)

    @contextmanager
    def turn_of(self, visitor: str) -> Iterator[None]:
        """Let a visitor ask; one thing at a time, since the page shows one.

        Raises:
            UserError: the visitor is being answered.
        """
        if visitor in self._streams:
            raise UserError("an answer is being decoded; stop it first")
        self._streams[visitor] = None
        try:
            yield
        finally:
            self.stop(visitor)
            del self._streams[visitor]
            self._stopped.discard(visitor)
            self._dropped.discard(visitor)

    def submit(self, visitor: str, request: Request, policy: Policy) -> Stream:
        """Let the request of a visitor whose turn it is wait for its place.

        Raises:
            UserError: a setting does not fit the model, or too many wait.
        """
        stream = self.served.service.submit(request, policy=policy, user=visitor)
        self._streams[visitor] = stream
        if visitor in self._stopped:
            stream.cancel()
        return stream

    def stop(self, visitor: str) -> None:
        """End what is decoded for a visitor within one pass, and what the turn has yet to ask."""
        if visitor in self._streams:
            self._stopped.add(visitor)
            stream = self._streams.get(visitor)
            if stream is not None:
                stream.cancel()

    async def drop(self, visitor: str) -> None:
        """End the turn of a visitor who has no use for its answer; return once it is over."""
        if visitor in self._streams:
            self._dropped.add(visitor)
            self.stop(visitor)
        while visitor in self._streams:
            await asyncio.sleep(PAUSE_S)

    def is_dropped(self, visitor: str) -> bool:
        """Whether the visitor whose turn it is has no use for its answer."""
        return visitor in self._dropped
