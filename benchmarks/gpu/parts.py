"""The parts in their order, the time that each may take, and the process that runs one.

Imports no torch: whoever holds a GPU while a part runs would disturb it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[2]
# Exit code of a part that cannot be measured here, with the reason as the last line of its stderr.
NOT_HERE = 3
# How many lines of a part that failed are kept.
LINES = 40
# For how long a killed process is waited for: one that hangs in the driver may never end.
LAST_WAIT_S = 10.0

State = Literal["done", "failed", "not measured"]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """name: on the command line. what: it shows. kept_s: seconds that earlier parts leave it."""

    name: str
    what: str
    kept_s: float


MACHINE = Part("machine", "what the GPU, its driver and torch are, and whether they compute", 30)
PARTS = (
    Part("tests", "all tests marked gpu", 50),
    Part("golden", "recorded traces of the published decoder, in float32", 60),
    Part("half", "half precision against float32, each kind of attention", 30),
    Part("memory", "answers when memory runs out", 30),
    Part("graphs", "recorded CUDA graphs against the same passes launched one by one", 40),
    Part("7b", "tokens/s and share of the roofline, random weights in the shape of the 7B", 80),
    Part("1.5b", "the same in the shape of the 1.5B", 45),
    Part("7b-pairs", "output reuse and look-ahead over plain decoding, in turn", 60),
    Part("1.5b-pairs", "the same in the shape of the 1.5B", 35),
    Part("tiny-pairs", "the same for the embedded model, which is trained", 30),
)
NAMES = tuple(part.name for part in PARTS)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a part gave: its rows, also if it ended early, and why it did.

    A row has `what`, `result` in words, `holds` if it is a check, and figures. said: the last
    lines of a process that failed.
    """

    part: Part
    state: State
    seconds: float
    rows: Sequence[Row] = ()
    reason: str | None = None
    said: Sequence[str] = ()

    @property
    def is_right(self) -> bool:
        """Whether it came to its end, or cannot be measured here, and each of its checks holds."""
        return self.state != "failed" and all(row.get("holds", True) for row in self.rows)

    def record(self) -> dict[str, Any]:
        """Return it for the JSON; what was not measured is absent."""
        written: Row = {
            "state": self.state,
            "seconds": round(self.seconds, 1),
            "rows": list(self.rows),
        }
        written |= {"reason": self.reason} if self.reason else {}
        return written | ({"said": list(self.said)} if self.state == "failed" else {})


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs parts one after the other, each in a process.

    options: of the process, behind the part's name. environment: what differs from this process's.
    """

    options: Sequence[str]
    total_s: float
    environment: Mapping[str, str] = field(default_factory=dict)
    removed: Sequence[str] = ()
    program: Sequence[str] = (sys.executable, "-m", "benchmarks.gpu.work")

    def run_all(self, parts: Sequence[Part], started: float) -> Iterator[Outcome]:
        """Run `parts`; `started`, of time.monotonic, is when the total time began.

        A part may take what its followers are not promised.
        """
        for index, part in enumerate(parts):
            kept_s = sum(later.kept_s for later in parts[index + 1 :])
            left_s = self.total_s - (time.monotonic() - started) - kept_s
            yield self.run(part, left_s)

    def run(self, part: Part, limit_s: float) -> Outcome:
        """Run one part, and end it after `limit_s`."""
        if limit_s <= 0:
            return Outcome(part, "not measured", 0.0, reason="no time was left (--minutes)")
        environment = {k: v for k, v in os.environ.items() if k not in self.removed}
        started = time.monotonic()
        with TemporaryDirectory(prefix="fastdllm-gpu-", ignore_cleanup_errors=True) as folder:
            rows, said = Path(folder) / "rows", Path(folder) / "said"
            rows.touch()
            with said.open("wb") as stream:
                process = subprocess.Popen(
                    [*self.program, part.name, str(rows), f"--limit={limit_s}", *self.options],
                    cwd=ROOT,
                    env={**environment, **self.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    start_new_session=True,
                )
                try:
                    code: int | None = process.wait(limit_s)
                except subprocess.TimeoutExpired:
                    code = None
                finally:
                    _end(process)
            measured = [json.loads(line) for line in rows.read_text("utf-8").splitlines()]
            words = said.read_text("utf-8", errors="replace").strip().splitlines()
        last = words[-1].strip() if words else "it said nothing"
        state: State = "failed"
        if code == 0:
            state, reason = "done", None
        elif code == NOT_HERE:
            state, reason = "not measured", last
        elif code is None:
            reason = f"stopped after {limit_s:.0f} s; last: {last}"
        else:
            reason = f"{_ending(code)}: {last}"
        return Outcome(part, state, time.monotonic() - started, measured, reason, words[-LINES:])


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what the part left running, and itself."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    try:
        process.wait(LAST_WAIT_S)
    except subprocess.TimeoutExpired:
        return


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
