"""One exchange over HTTP: a body that is not too long, and an answer that ends with its reader.

Knows no model.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from fastdllm.endpoint.api_errors import ApiError, api_error
from fastdllm.endpoint.shapes import event, json_text

MOST_BODY_BYTES = 4 * 2**20
UPLOAD_S = 30.0
# To tell a reader, who may read no more, that the time is over.
FAREWELL_S = 1.0

Result = TypeVar("Result")


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a value as an answer."""
    return Response(json_text(value), status, headers, media_type="application/json")


def error_response(error: ApiError) -> Response:
    """Return an error as an answer."""
    return json_response(error.body, error.status, error.headers)


async def read_body(request: Request) -> bytes:
    """Return the body of a request.

    What is left of one that is too long is dropped as it comes, after the answer.

    Raises:
        ApiError: it is too long, or comes too slowly.
        ClientDisconnect: the client has gone.
    """
    too_long = ApiError(
        413, f"the body is longer than {MOST_BODY_BYTES} bytes; shorten it", code="body_too_long"
    )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > MOST_BODY_BYTES:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(UPLOAD_S), aclosing(request.stream()) as pieces:
            async for piece in pieces:
                body += piece
                if len(body) > MOST_BODY_BYTES:
                    raise too_long
    except TimeoutError:
        raise ApiError(
            408,
            f"the body did not come within {UPLOAD_S:g} s",
            code="slow_upload",
            # Nothing else can come on the connection before the rest of the body.
            headers={"Connection": "close"},
        ) from None
    return bytes(body)


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of `work`, which is cancelled as soon as the client has gone.

    Raises:
        ClientDisconnect: it has gone.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events, until there are no more, the client goes, or the time is over.

    end: called in any case, once all is sent or nobody reads. deadline: as the event loop counts;
    late: what is told then.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        *,
        end: Callable[[], None],
        deadline: float,
        late: ApiError,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._end, self._deadline, self._late = events, end, deadline, late

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await unless_gone(receive, self._send_all(send))
        except ClientDisconnect:
            return
        finally:
            self._end()

    async def _send_all(self, send: Send) -> None:
        try:
            async with aclosing(self._events) as events:
                async with asyncio.timeout_at(self._deadline):
                    await send(
                        {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
                    )
                    async for piece in events:
                        await send(_part(piece))
                    await send(_part(b"", is_last=True))
        except Exception as error:
            told = self._late if isinstance(error, TimeoutError) else api_error(error)
            with suppress(TimeoutError):
                async with asyncio.timeout(FAREWELL_S):
                    await send(_part(event(told.body), is_last=True))


def _part(body: bytes, *, is_last: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": not is_last}
