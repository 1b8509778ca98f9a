"""Errors that a user's input causes, reported in one line, and the exit codes of commands.

A `UserError` says what is wrong, where, what is allowed and what to do next. The command line
prints it without a traceback and exits with code 2; any other exception is a bug in fastdllm and
keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

USER_ERROR_EXIT_CODE = 2
# EX_TEMPFAIL of sysexits.h: stopped by a signal; the same command resumes.
RESUME_EXIT_CODE = 75
# As shells report Ctrl-C.
INTERRUPTED_EXIT_CODE = 130

LONGEST_LINE = 500  # of an error in one line


class UserError(Exception):
    """A mistake that the user can fix; the message is one line."""

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows in place of a traceback, as in a notebook."""
        return [f"{type(self).__name__}: {self}"]


class PolicyViolation(UserError):
    """A decoding policy asked for something that block-diffusion decoding does not allow."""


def error_line(error: BaseException) -> str:
    """Return an error in one line of at most 500 characters; a bug with the name of its class."""
    kind = "" if isinstance(error, UserError) else type(error).__name__
    return ": ".join(filter(None, (kind, " ".join(str(error).split()))))[:LONGEST_LINE]


def nearest_name(name: str, valid: Iterable[str]) -> str | None:
    """Return the valid name closest in spelling to `name`; None if none is close."""
    matches = difflib.get_close_matches(str(name), [str(v) for v in valid], n=1, cutoff=0.6)
    return matches[0] if matches else None


def unknown_name(kind: str, name: str, valid: Iterable[str], where: str = "") -> UserError:
    """Build the error for a name that does not exist: the nearest valid one, then all of them."""
    names = sorted(str(v) for v in valid)
    near = nearest_name(name, names)
    place = f"{where}: " if where else ""
    hint = f"did you mean {near!r}? " if near else ""
    listed = ", ".join(names) if names else "none"
    return UserError(f"{place}unknown {kind} {name!r}; {hint}valid: {listed}")
