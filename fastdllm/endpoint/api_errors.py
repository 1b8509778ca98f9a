"""Errors in the shape of the OpenAI API: one line, and a status that says whose fault it is."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

from fastdllm.common.errors import UserError, error_line
from fastdllm.serving.service import Closed, Overloaded

# Long enough for an answer to end, short enough that a client comes back while there is room.
RETRY_AFTER_S = 2

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ApiError(Exception):
    """An answer that is an error; the message is one line.

    param: the key of the body that is wrong, if it is one.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """What the client reads."""
        default = "invalid_request_error" if self.status < 500 else "server_error"
        kind = _TYPES.get(self.status, default)
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


def api_error(error: Exception) -> ApiError:
    """Return an error as the client sees it; the traceback of a bug goes to stderr."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Overloaded):
        again = {"Retry-After": str(RETRY_AFTER_S)}
        return ApiError(429, error_line(error), code="overloaded", headers=again)
    if isinstance(error, Closed):
        return ApiError(503, error_line(error), code="closed")
    if isinstance(error, UserError):
        return ApiError(400, error_line(error))
    traceback.print_exception(error, file=sys.stderr)
    return ApiError(500, f"a bug in fastdllm: {error_line(error)}", code="internal_error")


def no_such_path(path: str) -> ApiError:
    """Return the error of a path that there is not."""
    return ApiError(404, f"no such path: {path[:100]}; see /v1/models")


def no_such_method(path: str, method: str, allowed: Iterable[str]) -> ApiError:
    """Return the error of a path that does not take a method."""
    headers = {"Allow": ", ".join(allowed)}
    return ApiError(405, f"{path[:100]} does not take {method}", headers=headers)


def timed_out(timeout_s: float) -> ApiError:
    """Return the error of a request that took too long, waiting included."""
    return ApiError(
        504,
        f"no whole answer within {timeout_s:g} s, waiting included; ask for fewer tokens, or try "
        "again when fewer ask",
        code="timeout",
    )
