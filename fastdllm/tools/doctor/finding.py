"""A finding of the doctor: one line about one thing, with a fix; and the output of commands."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from enum import StrEnum

# The user waits, and a command of the site may hang with its file system.
PATIENCE_S = 2.5


class Verdict(StrEnum):
    """How serious a finding is: a warning costs time or comfort, a problem stops runs."""

    OK = "ok"
    WARN = "warn"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class DoctorFinding:
    """name: of the thing, one word. text: what was seen. fix: what to do; empty if nothing."""

    name: str
    state: Verdict
    text: str
    fix: str = ""

    def __str__(self) -> str:
        fix = f"; {self.fix}" if self.fix else ""
        return f"{self.state:<8} {self.name:<12} {self.text}{fix}"


def ok(name: str, text: str) -> DoctorFinding:
    return DoctorFinding(name, Verdict.OK, text)


def warn(name: str, text: str, fix: str) -> DoctorFinding:
    return DoctorFinding(name, Verdict.WARN, text, fix)


def problem(name: str, text: str, fix: str) -> DoctorFinding:
    return DoctorFinding(name, Verdict.PROBLEM, text, fix)


def printed_by(*command: str, patience_s: float = PATIENCE_S) -> str | None:
    """Return what a command prints; None if it is absent, too slow, or fails without output."""
    try:
        completed = subprocess.run(
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
    return completed.stdout if completed.returncode == 0 or completed.stdout.strip() else None
