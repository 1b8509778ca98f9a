"""The steps of one request, for readers in any thread, or in an event loop of asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager, suppress
from threading import Condition
from typing import Protocol

from fastdllm.decoding.outcomes import Step
from fastdllm.decoding.sequence import Generation


class Owner(Protocol):
    """What a stream asks of the service that decodes it."""

    def cancel(self, stream: Stream) -> None:
        """End the stream soon; without effect if it has ended."""
        ...

    def place(self, stream: Stream) -> int:
        """Place in the queue: 0 is in decoding, or over."""
        ...


class _Reader:
    """One that reads in an event loop; waits: for the next step, not only for the last."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.arrived, self.waits = asyncio.Event(), False
        self._loop, self._has_given_up = loop, False

    def wake(self) -> None:
        """Let it look again; from any thread."""
        self.waits = False
        # The loop may be closed: then nobody reads any more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.arrived.set)

    async def woken(self, limit_s: float | None) -> bool:
        """Wait until it is woken; False after `limit_s` seconds."""
        timer = None if limit_s is None else self._loop.call_later(limit_s, self._give_up)
        self._has_given_up = False
        try:
            await self.arrived.wait()
        finally:
            if timer is not None:
                timer.cancel()
        return not self._has_given_up

    def _give_up(self) -> None:
        self._has_given_up = True
        self.arrived.set()


class Stream:
    """Steps of one request as they come; the last one has the answer (`Step.finished`).

    All steps stay, so that each reader sees all of them, however slow it is; nobody waits for a
    reader.
    """

    def __init__(self, owner: Owner) -> None:
        self._began = 0.0  # when it left the queue, by `time.perf_counter`
        self._complete: list[float] = []  # when each step was
        self._owner = owner
        self._changed = Condition()
        self._steps: list[Step] = []
        self._error: Exception | None = None
        self._readers: list[_Reader] = []

    @property
    def generation(self) -> Generation | None:
        """The answer, as soon as it is whole, refused or cancelled."""
        with self._changed:
            return self._steps[-1].finished if self._steps else None

    @property
    def is_over(self) -> bool:
        """Whether no further step will come."""
        with self._changed:
            return self._is_over()

    @property
    def place(self) -> int:
        """Place in the queue, 1 for the next one; 0 is in decoding, or over."""
        return self._owner.place(self)

    def seconds(self, index: int) -> float:
        """Return how long it had been decoded when step `index` was complete, without waiting."""
        return self._complete[index] - self._began if self._began else 0.0

    def cancel(self) -> None:
        """End the request within one pass; its last step has what is known of the answer."""
        self._owner.cancel(self)

    def result(self, timeout: float | None = None) -> Generation:
        """Wait for the answer.

        Raises:
            TimeoutError: it has not come within `timeout` seconds.
            Exception: what ended the decoding.
        """
        with self._changed:
            if not self._changed.wait_for(self._is_over, timeout):
                raise TimeoutError(f"no answer within {timeout:g} s")
            if self._error is not None:
                raise self._error
            answer = self._steps[-1].finished
            assert answer is not None
            return answer

    def __iter__(self) -> Iterator[Step]:
        """Yield all steps, from the first; wait for those to come.

        Raises:
            Exception: what ended the decoding, after the steps before it.
        """
        seen = 0
        while True:
            with self._changed:
                while len(self._steps) == seen and not self._is_over():
                    self._changed.wait()
                steps, is_over = self._steps[seen:], self._is_over()
            yield from steps
            seen += len(steps)
            if is_over:
                break
        if self._error is not None:
            raise self._error

    async def __aiter__(self) -> AsyncIterator[Step]:
        """The same, in an event loop: no thread waits."""
        async with aclosing(self.batches()) as batches:
            async for steps in batches:
                for step in steps:
                    yield step

    async def batches(
        self, *, pause_s: float = 0.0, idle_s: float | None = None
    ) -> AsyncGenerator[list[Step], None]:
        """Yield all steps, those that have come together; in an event loop.

        Args:
            pause_s: time between two batches, unless the last step comes: being woken by each step
                costs the decoding thread more than the steps of small models.
            idle_s: an empty batch is yielded when nothing has come for so long.

        Raises:
            Exception: what ended the decoding, after the steps before it.
        """
        seen = 0
        with self._reader() as reader:
            while True:
                reader.arrived.clear()
                with self._changed:
                    steps, is_over = self._steps[seen:], self._is_over()
                    reader.waits = not steps
                seen += len(steps)
                if steps:
                    yield steps
                if is_over:
                    break
                if steps and pause_s:
                    await reader.woken(pause_s)
                elif not steps and not await reader.woken(idle_s):
                    yield []
        if self._error is not None:
            raise self._error

    async def answer(self) -> Generation:
        """Wait for the answer, in an event loop.

        Raises:
            Exception: what ended the decoding.
        """
        with self._reader() as reader:
            if not self.is_over:
                await reader.woken(None)
        return self.result()

    @contextmanager
    def _reader(self) -> Iterator[_Reader]:
        reader = _Reader(asyncio.get_running_loop())
        with self._changed:
            self._readers.append(reader)
        try:
            yield reader
        finally:
            with self._changed:
                self._readers.remove(reader)

    def begin(self) -> None:
        """Say that it has left the queue; for the service."""
        self._began = time.perf_counter()

    def add(self, step: Step) -> None:
        """Append a step; for the service."""
        with self._changed:
            self._steps.append(step)
            self._complete.append(time.perf_counter())
            self._tell()

    def fail(self, error: Exception) -> None:
        """End with an error; for the service."""
        with self._changed:
            if not self._is_over():
                self._error = error
                self._tell()

    def _is_over(self) -> bool:
        has_answer = bool(self._steps) and self._steps[-1].finished is not None
        return has_answer or self._error is not None

    def _tell(self) -> None:
        self._changed.notify_all()
        is_over = self._is_over()
        for reader in self._readers:
            if reader.waits or is_over:
                reader.wake()
