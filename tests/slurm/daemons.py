"""The daemons and the folder of a lab, which live no longer than the process that made them."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from tests.slurm import supervisor
from tests.slurm.packages import program
from tests.slurm.ports import Ports

# Labs lie side by side, with short paths: a socket's path has at most 107 characters.
LABS = Path(tempfile.gettempdir()) / f"fastdllm-labs-{os.getuid()}"
READY_S = 300.0
TAIL_LINES = 20


class Daemons:
    """Daemons by name, started by a supervisor that ends them with us; their logs are in `log/`.

    Args:
        ports: the supervisor keeps them as long as it lives.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], ports: Ports) -> None:
        self.folder = folder
        self._pids: dict[str, int] = {}
        self._supervisor = subprocess.Popen(
            [sys.executable, supervisor.__file__, str(folder)],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            pass_fds=[ports.fileno],
        )

    def __contains__(self, name: str) -> bool:
        return name in self._pids

    def start(self, command: str, *words: str, name: str = "") -> None:
        """Start a daemon in the foreground of the supervisor."""
        assert self._supervisor.stdin
        assert self._supervisor.stdout
        name = name or command
        self._supervisor.stdin.write(json.dumps([name, program(command), *words]) + "\n")
        self._supervisor.stdin.flush()
        self._pids[name] = int(self._supervisor.stdout.readline())

    def kill(self, name: str) -> None:
        """Kill a daemon, as a machine that loses power does."""
        kill(self._pids.pop(name))

    def check(self) -> None:
        """Fail if a daemon has exited by itself, with the last lines of its logs."""
        if self._supervisor.poll() is not None:
            raise RuntimeError(f"the supervisor of the lab has ended\n{self._tails('*')}")
        for name, pid in self._pids.items():
            if not Path(f"/proc/{pid}").exists():
                raise RuntimeError(f"{name} of the lab has exited\n{self._tails(name)}")

    def wait_until(self, holds: Callable[[], Any], what: str) -> None:
        """Wait for daemons to be ready; fail with the ends of the logs, at once if one exited."""
        deadline = time.monotonic() + READY_S
        while not holds():
            self.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"the lab has no {what}\n{self._tails('*')}")
            time.sleep(0.05)

    def _tails(self, name: str) -> str:
        """Return the last lines of a daemon's log and of its output."""
        tails = []
        for path in sorted((self.folder / "log").glob(f"{name}.*")):
            lines = path.read_text(errors="replace").splitlines()[-TAIL_LINES:]
            tails += [f"{path.name}: {line}" for line in lines]
        return "\n".join(tails)

    def end(self) -> None:
        """End all daemons, whatever they started, and remove the folder."""
        assert self._supervisor.stdin
        self._supervisor.stdin.close()
        self._supervisor.wait(timeout=READY_S)
        shutil.rmtree(self.folder, ignore_errors=True)


def new_folder() -> Path:
    """Make a folder for a lab, with the folders that daemons expect."""
    LABS.mkdir(mode=0o755, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="", dir=LABS))
    for name in ("etc", "log", "run", "state", "spool", "dev", "database"):
        (folder / name).mkdir()
    return folder


def clean_up_the_dead() -> None:
    """End what is left of labs whose supervisor was killed, and remove their folders."""
    for folder in LABS.glob("*"):
        with ExitStack() as stack:
            try:
                lock = stack.enter_context((folder / "lock").open("r"))
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue  # alive, just being made, or just being removed
            for pid in processes_in(folder):
                kill(pid)
            shutil.rmtree(folder, ignore_errors=True)


def processes_in(folder: Path, *, node: str = "", job: str = "") -> list[int]:
    """Return the pids of what was started in a lab, in its jobs on one node, or in one job."""
    words = [f"SLURM_CONF={folder}/etc/slurm.conf"]
    words += [f"SLURMD_NODENAME={node}"] if node else []
    words += [f"SLURM_JOB_ID={job}"] if job else []
    marks = {word.encode() for word in words}
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it ended just now, or is another user's
            if marks <= set(path.read_bytes().split(b"\0")):
                found.append(int(path.parent.name))
    return found


def kill(pid: int) -> None:
    """Kill a process that may have ended by itself."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
