"""Snakemake without its second of imports: each call is a fork of a process that has done them.

Run as a program, this reads one call from each line and forks. The child becomes what `python -m
snakemake` would be: in the call's folder, with its environment, writing to its files.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Only a guard against waiting forever.
MOST_SECONDS = 600
# As it is before a test changes it: what is imported reads its variables once, for all calls.
_ENVIRONMENT = dict(os.environ)


def run_snakemake(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m snakemake` with these arguments in a folder."""
    # Tests that may start no process must not find one that is running already.
    sys.audit("subprocess.Popen", "snakemake", ["snakemake", *arguments], str(folder), None)
    environment = {k: v for k, v in os.environ.items() if k != "SNAKEMAKE_PROFILE"}
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    with tempfile.TemporaryDirectory() as outputs:
        paths = [Path(outputs, name) for name in ("stdout", "stderr")]
        call = [str(folder), environment, arguments, [str(path) for path in paths]]
        server.stdin.write(json.dumps(call) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        stdout, stderr = (path.read_text(encoding="utf-8") for path in paths)
    return subprocess.CompletedProcess(arguments, code, stdout, stderr)


@cache
def _server() -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.snakemake_forks"],
        cwd=ROOT,
        env=_ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.communicate)
    return server


def _serve() -> None:
    """Answer each line with an exit code; a child does not return."""
    import smart_open  # noqa: F401
    from snakemake.cli import get_argument_parser

    import fastdllm.entry  # noqa: F401

    get_argument_parser()  # imports the plugins
    for line in sys.stdin:
        if not (child := os.fork()):
            _become(*json.loads(line))
            _run_and_exit()
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()


def _become(
    folder: str, environment: dict[str, str], arguments: Sequence[str], outputs: Sequence[str]
) -> None:
    """Take on what a new process would be given."""
    signal.alarm(MOST_SECONDS)
    for descriptor, path in enumerate((os.devnull, *outputs)):
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        os.dup2(file, descriptor)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = folder
    sys.argv[1:] = arguments


def _run_and_exit() -> None:
    exit_code = 0
    try:
        runpy.run_module("snakemake", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        exit_code = int(end.code or 0)
    # An interpreter that ends by itself clears all modules, and waits for a timer of Snakemake.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


if __name__ == "__main__":
    _serve()
