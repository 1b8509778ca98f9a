"""The app: paths of the OpenAI API, health and metrics. Fits a page of another module beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from fastdllm.decoding.sequence import Generation
from fastdllm.endpoint.access import HostCheck, check_key
from fastdllm.endpoint.api_errors import (
    ApiError,
    api_error,
    no_such_method,
    no_such_path,
    timed_out,
)
from fastdllm.endpoint.asking import Question, question_of
from fastdllm.endpoint.exchange import (
    EventStream,
    error_response,
    json_response,
    read_body,
    unless_gone,
)
from fastdllm.endpoint.prometheus import metrics_text, registry_of
from fastdllm.endpoint.served import Served
from fastdllm.endpoint.shapes import (
    DONE,
    KEEP_ALIVE,
    Shape,
    event,
    finish_reason,
    model_entry,
)
from fastdllm.serving.partial import PartialAnswer
from fastdllm.serving.streams import Stream

# Between two events of a stream: faster than people read, and each costs as much as a pass.
PAUSE_S = 0.025
IDLE_S = 10.0
# Longer bodies are prepared on a thread, one at a time: they would hold up everyone.
LONG_BODY = 16 * 2**10
# Prompts of one request that decode or wait at the same time.
AT_ONCE = 8

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

Handler = Callable[[Request], Awaitable[Response]]


def create_app(served: Served, *, key: str | None = None, host: str = "127.0.0.1") -> FastAPI:
    """Return the app that serves a model.

    Args:
        key: what requests must have, but for /health and /ready; without one, requests must name
            this machine.
        host: what the server listens on.
    """
    # Its pages of documentation would load scripts from the network.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    endpoint, registry = _Endpoint(served), registry_of(served.service)

    async def metrics(_: Request) -> Response:
        return Response(metrics_text(registry), media_type="text/plain; version=0.0.4")

    def add(path: str, handler: Handler, method: str = "GET", *, is_open: bool = False) -> None:
        guarded = _guarded(handler, method, None if is_open else key)
        # All, so that none of them falls to what is mounted beside.
        app.add_route(path, guarded, methods=list(METHODS))

    add("/v1/models", endpoint.models)
    add("/v1/models/{model:path}", endpoint.model)
    add("/v1/chat/completions", partial(endpoint.answer, is_chat=True), "POST")
    add("/v1/completions", partial(endpoint.answer, is_chat=False), "POST")
    add("/v1/{rest:path}", endpoint.nothing)
    add("/metrics", metrics)
    add("/health", endpoint.health, is_open=True)
    add("/ready", endpoint.ready, is_open=True)
    app.add_exception_handler(HTTPException, _refused)
    if key is None:
        app.add_middleware(HostCheck, hosts=[host])
    return app


def _guarded(handler: Handler, method: str, key: str | None) -> Handler:
    """Return a handler that asks for the key, and whose errors have the shape of the API."""
    allowed = ("GET", "HEAD") if method == "GET" else (method,)

    async def guarded(request: Request) -> Response:
        try:
            check_key(request.headers.get("authorization"), key)
            if request.method not in allowed:
                raise no_such_method(request.url.path, request.method, allowed)
            return await handler(request)
        except ClientDisconnect:
            return Response(status_code=499)  # which nobody reads
        except Exception as error:
            return error_response(api_error(error))

    return guarded


async def _refused(request: Request, error: Exception) -> Response:
    """A path that there is not, or a method that nothing takes."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return error_response(no_such_path(request.url.path))
    return error_response(ApiError(error.status_code, error.detail))


class _Endpoint:
    """Answers requests about one model."""

    def __init__(self, served: Served) -> None:
        self._served = served
        # Not the pool of the event loop: one that was given up goes on to its end.
        self._long_bodies = ThreadPoolExecutor(1, "long bodies")

    async def health(self, _: Request) -> Response:
        """The process answers."""
        return json_response({"status": "ok"})

    async def ready(self, _: Request) -> Response:
        """The model takes requests."""
        if not self._served.service.is_open:
            raise ApiError(503, "the server ends", code="closed")
        return json_response({"status": "ok"})

    async def models(self, _: Request) -> Response:
        """All models: one."""
        return json_response({"object": "list", "data": [model_entry(self._served)]})

    async def model(self, request: Request) -> Response:
        """The model by its name."""
        name = request.path_params["model"]
        if name != self._served.name:
            raise ApiError(
                404,
                f"no model {name[:100]!r}; there is {self._served.name}",
                code="model_not_found",
            )
        return json_response(model_entry(self._served))

    async def nothing(self, request: Request) -> Response:
        """Any other path of the API."""
        raise no_such_path(request.url.path)

    async def answer(self, request: Request, *, is_chat: bool) -> Response:
        """Answer a chat or a completion, whole or as a stream."""
        served = self._served
        deadline = asyncio.get_running_loop().time() + served.timeout_s
        late = timed_out(served.timeout_s)
        body = await read_body(request)
        try:
            async with asyncio.timeout_at(deadline):
                work = self._question(body, is_chat=is_chat)
                question = await unless_gone(request.receive, work)
                asked_by = _user(question, request)
                shape = Shape(served.name, is_chat)
                if not question.is_streamed:
                    answers = self._answers(question, asked_by)
                    return json_response(
                        _whole(question, shape, await unless_gone(request.receive, answers))
                    )
        except TimeoutError:
            raise late from None
        stream = self._submit(question, 0, asked_by)
        events = _events(stream, question, shape)
        return EventStream(events, end=stream.cancel, deadline=deadline, late=late)

    async def _question(self, body: bytes, *, is_chat: bool) -> Question:
        """Return what a body asks for, without holding up others."""
        if len(body) < LONG_BODY:
            return question_of(self._served, body, is_chat=is_chat)
        work = partial(question_of, self._served, body, is_chat=is_chat)
        return await asyncio.get_running_loop().run_in_executor(self._long_bodies, work)

    async def _answers(self, question: Question, user: Hashable) -> list[Generation]:
        """Decode the prompts of a question, a few at a time."""
        places = asyncio.Semaphore(AT_ONCE)

        async def answer(index: int) -> Generation:
            async with places:
                stream = self._submit(question, index, user)
                try:
                    return _check(await stream.answer())
                finally:
                    stream.cancel()

        if len(question.requests) == 1:
            return [await answer(0)]
        tasks = [asyncio.ensure_future(answer(i)) for i in range(len(question.requests))]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    def _submit(self, question: Question, index: int, user: Hashable) -> Stream:
        request = question.requests[index]
        stream = self._served.service.submit(request, question.settings, user=user)
        if stream.generation is not None:
            _check(stream.generation)
        return stream


def _user(question: Question, request: Request) -> Hashable:
    """Whose turn it is: of a name, or of an address."""
    if question.user is not None:
        return "user", question.user
    return "address", request.client.host if request.client else ""


def _check(answer: Generation) -> Generation:
    """Return an answer that is one.

    Raises:
        ApiError: the request was refused.
    """
    if answer.error is not None:
        raise ApiError(400, answer.error)
    return answer


def _whole(question: Question, shape: Shape, answers: list[Generation]) -> dict[str, object]:
    texts = [question.answer(generation) for generation in answers]
    prompt = sum(len(request.prompt_ids) for request in question.requests)
    return shape.whole(texts, answers, prompt)


async def _events(stream: Stream, question: Question, shape: Shape) -> AsyncGenerator[bytes, None]:
    """Yield the events of an answer."""
    (request,) = question.requests
    growing, prompt_length = question.growing(), len(request.prompt_ids)
    partial_answer = PartialAnswer(
        prompt_length,
        block_size=question.settings.block_size,
        most=request.max_new_tokens or 0,
    )
    if shape.is_chat:
        yield event(shape.piece("", is_first=True))
    async for steps in stream.batches(pause_s=PAUSE_S, idle_s=IDLE_S):
        for step in steps:
            partial_answer.add(step)
        answer = partial_answer.generation
        if not steps:
            yield KEEP_ALIVE
        elif answer is None:
            if text := growing.more(partial_answer.known):
                yield event(shape.piece(text))
        else:
            if text := growing.rest(question.answer(_check(answer))):
                yield event(shape.piece(text))
            yield event(shape.piece(None, finish_reason(answer)))
            if question.includes_usage:
                yield event(shape.last(answer, prompt_length))
            yield DONE
