"""A finding: one line about one thing, and what to do when it is not well; asking commands."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from enum import StrEnum

# A person waits, and a command of the site may hang with a file system that does.
PATIENCE_S = 2.5


class State(StrEnum):
    """How a thing is: a warning costs time or comfort, a problem stops runs."""

    OK = "ok"
    WARN = "warn"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """name: of the thing, one word. text: what was seen. fix: what to do; empty where nothing."""

    name: str
    state: State
    text: str
    fix: str = ""

    def __str__(self) -> str:
        fix = f"; {self.fix}" if self.fix else ""
        return f"{self.state:<8} {self.name:<12} {self.text}{fix}"


def ok(name: str, text: str) -> Finding:
    return Finding(name, State.OK, text)


def warn(name: str, text: str, fix: str) -> Finding:
    return Finding(name, State.WARN, text, fix)


def problem(name: str, text: str, fix: str) -> Finding:
    return Finding(name, State.PROBLEM, text, fix)


def printed_by(*command: str, patience_s: float = PATIENCE_S) -> str | None:
    """What a command prints; None where it is absent, silent for long, or fails without a word."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=patience_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 or done.stdout.strip() else None
