"""Programs without their seconds of imports: each call is a fork of a process that has done them.

Run as a program, this reads one call from each line. To start something it forks, and the child
becomes what `python -m PROGRAM` would be: in the call's folder, with its environment and files.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import termios
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# Only a guard against waiting forever.
MOST_SECONDS = 600
# As it is before a test changes it: what is imported reads its variables once, for all calls.
_ENVIRONMENT = dict(os.environ)


class Forked:
    """A running `python -m PROGRAM` of a server of forks; used as a `subprocess.Popen`.

    files: what it has as standard input, output and error. A terminal becomes its own.
    """

    def __init__(
        self,
        program: str,
        arguments: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        files: Sequence[str],
    ) -> None:
        # Tests that may start no process must not find one that is running already.
        sys.audit("subprocess.Popen", program, [program, *arguments], str(folder), None)
        self._server = _server(program)
        call = [str(folder), dict(environment), list(arguments), list(files)]
        self.pid = _ask(self._server, "start", call)
        self._end = os.pidfd_open(self.pid)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code if it has ended."""
        has_ended = self.returncode is None and select.select([self._end], [], [], 0)[0]
        return self.wait() if has_ended else self.returncode

    def wait(self) -> int:
        """Return the exit code once it has ended."""
        if self.returncode is None:
            self.returncode = _ask(self._server, "wait", self.pid)
            os.close(self._end)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal unless its end is known."""
        if self.returncode is None:
            os.kill(self.pid, number)


def run_snakemake(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m snakemake` with these arguments in a folder."""
    return _run("snakemake", arguments, folder)


def run_fastdllm(
    *arguments: str, folder: Path, typed: str | bytes = b""
) -> subprocess.CompletedProcess[str]:
    """Run `python -m fastdllm` with these arguments in a folder; typed is its standard input."""
    return _run("fastdllm", arguments, folder, typed)


def _run(
    program: str, arguments: Sequence[str], folder: Path, typed: str | bytes = b""
) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "SNAKEMAKE_PROFILE"}
    with tempfile.TemporaryDirectory() as place:
        stdin, stdout, stderr = paths = [Path(place, name) for name in ("in", "out", "err")]
        stdin.write_bytes(typed.encode() if isinstance(typed, str) else typed)
        files = [*map(str, paths)]
        started = Forked(program, arguments, folder=folder, environment=environment, files=files)
        code = started.wait()
        said = [path.read_text(encoding="utf-8") for path in (stdout, stderr)]
    return subprocess.CompletedProcess([program, *arguments], code, *said)


def _ask(server: subprocess.Popen[str], what: str, value: Any) -> int:
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(json.dumps([what, value]) + "\n")
    server.stdin.flush()
    return int(server.stdout.readline())


@cache
def _server(program: str) -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.forks", program],
        cwd=ROOT,
        env=_ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.communicate)
    return server


def _serve(program: str) -> None:
    """Answer each line with a number; a child does not return."""
    {"snakemake": _import_snakemake, "fastdllm": _import_fastdllm}[program]()
    gc.freeze()
    for line in sys.stdin:
        what, value = json.loads(line)
        if what == "wait":
            answer = os.waitstatus_to_exitcode(os.waitpid(value, 0)[1])
        elif not (answer := os.fork()):
            _become(*value)
            _run_and_exit(program)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


def _import_snakemake() -> None:
    import smart_open  # noqa: F401
    from snakemake.cli import get_argument_parser

    import fastdllm.entry  # noqa: F401

    get_argument_parser()  # imports the plugins


def _import_fastdllm() -> None:
    # No library of Hugging Face, which would read variables that a command sets for it.
    import prompt_toolkit.shortcuts  # noqa: F401
    import rich.console  # noqa: F401
    import torch  # noqa: F401

    import fastdllm.chat.talk
    import fastdllm.commands.generate
    import fastdllm.commands.sensitivity
    import fastdllm.model.loading  # noqa: F401

    assert not sys.modules.keys() & {"datasets", "huggingface_hub", "transformers"}


def _become(
    folder: str, environment: dict[str, str], arguments: Sequence[str], files: Sequence[str]
) -> None:
    """Take on what a new process would be given."""
    signal.alarm(MOST_SECONDS)
    for descriptor, path in enumerate(files):
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        os.dup2(file, descriptor)
        os.close(file)
    sys.stdin, sys.stdout = open(0), open(1, "w")  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace")  # noqa: SIM115
    if os.isatty(0):
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = folder
    sys.argv[1:] = arguments


def _run_and_exit(program: str) -> None:
    exit_code = 0
    try:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        exit_code = int(end.code or 0)
    # An interpreter that ends by itself clears all modules, and waits for a timer of Snakemake.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
