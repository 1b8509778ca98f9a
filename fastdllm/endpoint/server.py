"""Serving an app: the port, what is printed, and an end that tells those who wait.

For the endpoint and for the web page. Knows no model.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from fastdllm.common.errors import UserError
from fastdllm.endpoint.access import is_loopback

# How far a free port is looked for.
PORTS_TRIED = 100
# At the end, for answers on their way; then connections are closed, such as of open pages.
GRACE_S = 1.0


def open_port(host: str, port: int) -> socket.socket:
    """Return a socket that has the port; it does not listen yet. Port 0 is any free one.

    Raises:
        UserError: the port is taken, naming the next free one, or there is no such host here.
    """
    try:
        return _bound(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _taken(host, port) from None
        if error.errno == errno.EACCES:
            raise UserError(f"port {port} is the system's; choose one above 1023") from None
        reason = error.strerror or str(error)
        raise UserError(f"--host {host}: {reason}; 127.0.0.1 is this machine alone") from None


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def _taken(host: str, port: int) -> UserError:
    free = _next_free(host, port)
    hint = f"--port {free} is free" if free else "choose another one"
    return UserError(f"port {port} is taken; {hint}")


def _next_free(host: str, taken: int) -> int | None:
    for port in range(taken + 1, min(taken + PORTS_TRIED, 65536)):
        try:
            _bound(host, port).close()
        except OSError:
            continue
        return port
    return None


def address_of(bound: socket.socket) -> str:
    """Return the address that people open, such as `http://127.0.0.1:8000`."""
    host, port = bound.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:  # all addresses of this machine
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def tunnel_hint(host: str, port: int) -> str | None:
    """Return the line that brings a port of a remote machine to one's own; None where one sits.

    A machine is remote if one came by ssh, or in a SLURM job.
    """
    is_remote = any(name in os.environ for name in ("SSH_CONNECTION", "SLURM_JOB_ID"))
    if not is_remote or not is_loopback(host):
        return None
    node = socket.gethostname()
    job = os.environ.get("SLURM_SUBMIT_HOST")
    through = f"-J {os.environ.get('USER', 'USER')}@{job} " if job and job != node else ""
    user = os.environ.get("USER", "USER")
    return f"from your own machine: ssh {through}-N -L {port}:localhost:{port} {user}@{node}"


class _Server(uvicorn.Server):
    """Ends what is at work before it waits for it."""

    def __init__(self, config: uvicorn.Config, end: Callable[[], None]) -> None:
        super().__init__(config)
        self._end = end

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.to_thread(self._end)
        shutdown = asyncio.ensure_future(super().shutdown(sockets))
        await asyncio.wait({shutdown}, timeout=GRACE_S)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await shutdown


def listen(bound: socket.socket) -> None:
    """Take connections, which are answered once the port is served.

    Raises:
        UserError: another program has taken the port since it was opened.
    """
    try:
        bound.listen()
    except OSError:
        raise _taken(*bound.getsockname()[:2]) from None


def serve(app: ASGIApp, bound: socket.socket, *, end: Callable[[], None]) -> None:
    """Serve an app until Ctrl-C or SIGTERM.

    end: called then, before open connections are waited for: those who wait are told.
    """
    with _signals_end_it():
        server_of(app, end).run(sockets=[bound])


def server_of(app: ASGIApp, end: Callable[[], None]) -> uvicorn.Server:
    """Return the server of `serve`, to be run with its socket; it ends once `should_exit` is."""
    config = uvicorn.Config(
        app,
        log_config=None,
        # Less is what anyone may send: no HTTP, or a wish for a WebSocket.
        log_level="error",
        access_log=False,
        server_header=False,
        # Anyone here could claim to be someone else, whose turn it is.
        proxy_headers=False,
        ws="none",
    )
    return _Server(config, end)


@contextmanager
def _signals_end_it() -> Iterator[None]:
    """Let a signal that uvicorn has obeyed, and then raises again, do nothing more."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: None) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
