"""Errors in the shape of the OpenAI API: one line, and a status that says whose fault it is."""

from __future__ import annotations

import sys
import traceback
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
        self, status: int, message: str, *, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param

    @property
    def body(self) -> dict[str, Any]:
        """What the client reads."""
        default = "invalid_request_error" if self.status < 500 else "server_error"
        kind = _TYPES.get(self.status, default)
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        """What the client's retries, and its log-in, need."""
        if self.status == 429:
            return {"Retry-After": str(RETRY_AFTER_S)}
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        # Nothing else can come on the connection before the rest of the body.
        return {"Connection": "close"} if self.status == 408 else {}


def api_error(error: Exception) -> ApiError:
    """Return an error as the client sees it; the traceback of a bug goes to stderr."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Overloaded):
        return ApiError(429, error_line(error), code="overloaded")
    if isinstance(error, Closed):
        return ApiError(503, error_line(error), code="closed")
    if isinstance(error, UserError):
        return ApiError(400, error_line(error))
    traceback.print_exception(error, file=sys.stderr)
    return ApiError(500, f"a bug in fastdllm: {error_line(error)}", code="internal_error")


def timed_out(timeout_s: float) -> ApiError:
    """Return the error of a request that took too long, waiting included."""
    return ApiError(
        504,
        f"no whole answer within {timeout_s:g} s, waiting included; ask for fewer tokens, or try "
        "again when fewer ask",
        code="timeout",
    )
