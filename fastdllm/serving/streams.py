"""The steps of one request, for readers in any thread, or in an event loop of asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
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


class Stream:
    """Steps of one request as they come; the last one has the answer (`Step.finished`).

    All steps stay, so that each reader sees all of them, however slow it is; nobody waits for a
    reader.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._changed = Condition()
        self._steps: list[Step] = []
        self._error: Exception | None = None
        self._listeners: list[Callable[[], None]] = []

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
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            # The loop may be closed: then nobody reads any more.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(arrived.set)

        with self._changed:
            self._listeners.append(wake)
        seen = 0
        try:
            while True:
                arrived.clear()
                with self._changed:
                    steps, is_over = self._steps[seen:], self._is_over()
                for step in steps:
                    yield step
                seen += len(steps)
                if is_over:
                    break
                await arrived.wait()
        finally:
            with self._changed:
                self._listeners.remove(wake)
        if self._error is not None:
            raise self._error

    def add(self, step: Step) -> None:
        """Append a step; for the service."""
        with self._changed:
            self._steps.append(step)
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
        for wake in self._listeners:
            wake()
