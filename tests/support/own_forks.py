"""Commands without seconds of imports: forks of the process that tests, which has done them."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from fastdllm.cli import main
from tests.support.run_project import PATIENCE_S


class OwnFork:
    """A child of this process that does some work; used as a `subprocess.Popen`.

    Args:
        work: returns the exit code.
    """

    def __init__(self, work: Callable[[], int], *, cwd: Path) -> None:
        # Tests that may start no process may not fork either.
        sys.audit("subprocess.Popen", "fastdllm", ["fastdllm"], str(cwd), None)
        self.returncode: int | None = None
        self._files = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115
        self.pid = os.fork()
        if not self.pid:
            _do(work, cwd, [file.fileno() for file in self._files])

    def poll(self) -> int | None:
        """Return the exit code if it has ended."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def communicate(self, timeout: float = PATIENCE_S) -> tuple[str, str]:
        """Wait for its end; return what it wrote."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < deadline, "no end"
            time.sleep(0.01)
        said = []
        for file in self._files:
            file.seek(0)
            said.append(file.read())
        return said[0], said[1]

    def send_signal(self, number: int) -> None:
        """Send it a signal unless its end is known."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, also if it is frozen."""
        self.send_signal(signal.SIGKILL)


def fork_fastdllm(*arguments: str, cwd: Path, first: Callable[[], None] = lambda: None) -> OwnFork:
    """Start `fastdllm ...` as a fork that does something `first`."""

    def work() -> int:
        first()
        return main(list(arguments))

    return OwnFork(work, cwd=cwd)


def _do(work: Callable[[], int], cwd: Path, files: list[int]) -> None:
    """Do the work and end: nothing of a child goes on with the tests."""
    code = 1
    try:
        signal.alarm(int(PATIENCE_S))
        for descriptor, file in enumerate(files, start=1):
            os.dup2(file, descriptor)
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
        os.chdir(cwd)
        code = work()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
