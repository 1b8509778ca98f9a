"""Keeps the traces of the latest answers, by a name that nobody can guess."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from threading import Lock

from fastdllm.common.errors import UserError
from fastdllm.traces.record import Trace, trace_of, trace_text

KEPT_BYTES = 128 * 2**20


class TraceShelf:
    """Keeps traces as JSON up to a number of bytes; the one not used for longest goes first."""

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        self._most, self._bytes = most_bytes, 0
        self._texts: OrderedDict[str, bytes] = OrderedDict()
        self._lock = Lock()

    def put(self, trace: Trace) -> str:
        """Keep a trace, and return its name."""
        name, text = secrets.token_urlsafe(16), trace_text(trace).encode()
        with self._lock:
            self._texts[name] = text
            self._bytes += len(text)
            while self._bytes > self._most and len(self._texts) > 1:
                self._bytes -= len(self._texts.popitem(last=False)[1])
        return name

    def take(self, name: str) -> Trace:
        """Return a trace that is kept.

        Raises:
            UserError: it is not kept any more.
        """
        with self._lock:
            text = self._texts.get(name)
            if text is None:
                raise UserError("the steps of this answer are not kept any more; ask again")
            self._texts.move_to_end(name)
        return trace_of(text, "the answer")
