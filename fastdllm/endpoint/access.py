"""Who may ask: those with the key, where there is one, and pages of this machine only.

Without a key the server listens on this machine alone. A page of another site, which a browser here
shows, could still send requests; a foreign Host or Origin gives it away.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from fastdllm.common.errors import UserError
from fastdllm.common.paths import expanded
from fastdllm.endpoint.api_errors import ApiError
from fastdllm.endpoint.exchange import error_response

KEY_VARIABLE = "FASTDLLM_KEY"
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
# Short ones are guessed.
SHORTEST_KEY = 8


def read_key(file: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the key: the first line of a file, else that of the environment; None for no key.

    Raises:
        UserError: there is no such file, or the key is no key.
    """
    if file is None:
        where, key = KEY_VARIABLE, environment.get(KEY_VARIABLE)
        if key is None:
            return None
    else:
        where = file
        try:
            lines = expanded(Path(file)).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise UserError(f"--key-file {file}: {reason}") from None
        key = lines[0] if lines else ""
    key = key.strip()
    if len(key) < SHORTEST_KEY or not (key.isascii() and key.isprintable() and " " not in key):
        raise UserError(
            f"{where}: the key should have {SHORTEST_KEY} or more letters and digits, without "
            "spaces; make one: openssl rand -hex 16"
        )
    return key


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_exposure(host: str, key: str | None) -> None:
    """Refuse to listen to other machines without a key.

    Raises:
        UserError: saying how to give one.
    """
    if key is None and not is_loopback(host):
        raise UserError(
            f"--host {host} lets other machines ask, which needs a key: --key-file FILE, or export "
            f"{KEY_VARIABLE}=... (make one: openssl rand -hex 16)"
        )


def is_key(given: str, key: str) -> bool:
    """Whether the key was given, in a time that does not tell how much of it is right."""
    return hmac.compare_digest(given.encode(), key.encode())


def check_key(given: str | None, key: str | None) -> None:
    """Refuse a request whose Authorization header has not the key.

    Raises:
        ApiError: with the status 401.
    """
    if key is None:
        return
    scheme, _, token = (given or "").partition(" ")
    if scheme.lower() != "bearer" or not is_key(token.strip(), key):
        said = "the API key is wrong" if given else "an API key is needed"
        raise ApiError(
            401,
            f"{said}; send the header Authorization: Bearer KEY",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


class HostCheck:
    """Lets pass what names one of the hosts, and comes from no page of another one."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self._app, self._hosts = app, LOCAL_NAMES | {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
            for name, start in ((b"host", "//"), (b"origin", "")):
                value = headers.get(name)
                if value is not None and _host_of(start + value) not in self._hosts:
                    error = ApiError(
                        403,
                        f"{name.decode()} {value[:100]!r} is not this server; ask as localhost, or "
                        "start it with --host and a key",
                        code="host_not_allowed",
                    )
                    await error_response(error)(scope, receive, send)
                    return
        await self._app(scope, receive, send)


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
