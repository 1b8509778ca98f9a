"""What reaches Gradio: the few paths that the page needs, in requests that it can bear.

Gradio serves much more than the page uses, fetches addresses that a visitor names, and takes bodies
of any size. Knows no component of the page.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastdllm.endpoint.api_errors import ApiError
from fastdllm.endpoint.exchange import error_response, read_body
from fastdllm.traces.record import MAX_TRACE_BYTES

API = "/gradio_api"
FILE = f"{API}/file="
UPLOAD = f"{API}/upload"
LOGIN = "/login"
# Events of the page, those that do not wait for others, and their end.
EVENTS = (f"{API}/queue/join", f"{API}/run/predict", f"{API}/cancel")
PATHS = frozenset(
    {
        *("/", "/config", LOGIN, "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt"),
        *(UPLOAD, *EVENTS, f"{API}/queue/data", f"{API}/upload_progress", f"{API}/app_id"),
    }
)
FOLDERS = ("/assets/", "/static/", f"{API}/heartbeat/", FILE)
# Two traces, and what a form adds.
MOST_UPLOAD_BYTES = 2 * MAX_TRACE_BYTES + 2**16
# Of uploads and of files that were made for visitors, all together; the oldest go first.
MOST_STORED_BYTES = 2**30
# The browser loads from here alone, whatever an answer holds, and shows the page within no other.
POLICY = (
    b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'; "
    b"base-uri 'self'; form-action 'self'"
)
# Of a tab, which the page gives itself.
LONGEST_NAME = 64
# An event has a value per component, and few of them have parts.
MOST_VALUES = 2000
# A file, as an event names one.
NAMED = ("path", "url")


class PageGate:
    """Lets pass what the page of this server asks for.

    folder: of the files of visitors; they name no others. events: the numbers of those there are.
    is_locked: whether there is a password, which Gradio does not ask of all that its page uses.
    """

    def __init__(
        self, app: ASGIApp, folder: Path, events: Container[object], *, is_locked: bool
    ) -> None:
        self._app, self._folder, self._events = app, folder, events
        self._is_locked, self._tokens = is_locked, set[str]()  # of those who have logged in

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            passed = await self._checked(request)
        except ClientDisconnect:
            return
        except ApiError as error:
            await error_response(error)(scope, receive, send)
            return
        await self._app(scope, passed, self._kept_here(send))

    async def _checked(self, request: Request) -> Receive:
        """Return what the app receives of a request.

        Raises:
            ApiError: it is refused.
        """
        path = request.url.path
        if path not in PATHS and not path.startswith(FOLDERS):
            raise ApiError(404, f"no such path: {path[:100]}")
        origin = request.headers.get("origin")
        if origin is not None and _host_of(origin) != request.headers.get("host", "").lower():
            raise ApiError(403, f"{origin[:100]!r} is another site; open the page itself")
        has_token = not self._tokens.isdisjoint(request.cookies.values())
        if self._is_locked and path.startswith(API) and not has_token:
            raise ApiError(401, "log in first: load the page again")
        if path.startswith(FILE) and not self._holds(path.removeprefix(FILE)):
            raise ApiError(403, "no file of this page; make it once more")
        if path == UPLOAD:
            await self._check_upload(request)
        if request.method != "POST" or path == UPLOAD:
            return request.receive
        body = await read_body(request)
        if path != LOGIN:
            # On another thread, as a long one takes a while.
            await asyncio.to_thread(self._check_event, body)
        return _again(body, request.receive)

    def _holds(self, name: str) -> bool:
        try:
            return Path(name).is_absolute() and Path(name).resolve().is_relative_to(self._folder)
        except (OSError, RuntimeError, ValueError):  # too long, a link to itself, or with a zero
            return False

    async def _check_upload(self, request: Request) -> None:
        length = request.headers.get("content-length", "")
        if not length.isdecimal():
            raise ApiError(411, "an upload should say its length")
        if int(length) > MOST_UPLOAD_BYTES:
            raise ApiError(
                413, f"the files have more than {MOST_UPLOAD_BYTES // 2**20} MiB, the most of two"
            )
        await asyncio.to_thread(_make_room, self._folder)

    def _check_event(self, body: bytes) -> None:
        """Refuse an event that is none of the page, has too many parts, or names a foreign file.

        Raises:
            ApiError: saying which.
        """
        try:
            parts = [json.loads(body)]
        except (ValueError, RecursionError):
            raise ApiError(400, "the event is no JSON") from None
        (event,) = parts
        if not isinstance(event, dict) or not self._is_known(event.get("fn_index")):
            raise ApiError(400, "no such event; load the page again")
        tab = event.get("session_hash")
        if not isinstance(tab, str) or len(tab) > LONGEST_NAME:
            raise ApiError(400, "the event has no tab; load the page again")
        count = 0
        while parts:
            part = parts.pop()
            count += 1
            if isinstance(part, dict):
                named = [part[name] for name in NAMED if part.get(name) is not None]
                if not all(isinstance(name, str) and self._is_own(name) for name in named):
                    raise ApiError(403, "the event names a file that was not uploaded")
                parts.extend(part.values())
            elif isinstance(part, list):
                parts.extend(part)
            if count + len(parts) > MOST_VALUES:
                raise ApiError(413, f"the event has more than {MOST_VALUES} values")

    def _kept_here(self, send: Send) -> Send:
        """Return what tells the browser to ask nobody else, and to keep other sites out."""

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers: list[tuple[bytes, bytes]] = message.get("headers", [])
                message["headers"] = [
                    (name, self._own(value) if name.lower() == b"set-cookie" else value)
                    for name, value in headers
                ]
                message["headers"].append((b"content-security-policy", POLICY))
            await send(message)

        return sent

    def _own(self, cookie: bytes) -> bytes:
        """Return a cookie of one who has logged in, so that other sites cannot use it."""
        self._tokens.add(cookie.partition(b";")[0].partition(b"=")[2].decode("latin-1"))
        return re.sub(rb"(?i);\s*samesite=\w+", b"", cookie) + b"; SameSite=Lax"

    def _is_known(self, number: object) -> bool:
        return isinstance(number, int) and number in self._events

    def _is_own(self, name: str) -> bool:
        # The address of an upload, as the page knows it, ends in its path.
        return self._holds(name.rpartition(FILE)[2])


def _host_of(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _make_room(folder: Path) -> None:
    """Remove the oldest files; Gradio forgets those of uploads that were broken off."""
    files = []
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # it went meanwhile
            found = path.stat()
            if S_ISREG(found.st_mode):
                files.append((found.st_mtime, found.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= MOST_STORED_BYTES:
            break
        path.unlink(missing_ok=True)
        total -= size


def _again(body: bytes, receive: Receive) -> Receive:
    """Return what gives a body that was read once more, and then what comes after it."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Message:
        return left.pop() if left else await receive()

    return received
