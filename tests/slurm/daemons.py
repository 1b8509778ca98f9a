"""The daemons and the folder of a lab, which live no longer than the process that made them."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
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

# Labs lie side by side, with short paths: a socket's path has at most 107 characters.
LABS = Path(tempfile.gettempdir()) / f"fastdllm-labs-{os.getuid()}"
READY_S = 300.0


class Daemons:
    """Daemons by name, started in a folder's `log/` by a supervisor that ends them with us."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self._pids: dict[str, int] = {}
        self._supervisor = subprocess.Popen(
            [sys.executable, supervisor.__file__, str(folder)],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __contains__(self, name: str) -> bool:
        return name in self._pids

    def start(self, command: str, *words: str, name: str = "") -> None:
        """Start a daemon in the foreground of the supervisor."""
        assert self._supervisor.stdin
        assert self._supervisor.stdout
        self._supervisor.stdin.write(json.dumps([program(command), *words]) + "\n")
        self._supervisor.stdin.flush()
        self._pids[name or command] = int(self._supervisor.stdout.readline())

    def kill(self, name: str) -> None:
        """Kill a daemon, as a machine that loses power does."""
        kill(self._pids.pop(name))

    def wait_until(self, holds: Callable[[], Any], what: str) -> None:
        """Wait for a daemon to be ready; fails with the ends of all logs."""
        deadline = time.monotonic() + READY_S
        while not holds():
            if time.monotonic() > deadline or self._supervisor.poll() is not None:
                logs = sorted((self.folder / "log").glob("*"))
                tails = [f"{path.name}: {path.read_text(errors='replace')[-800:]}" for path in logs]
                raise RuntimeError(f"the lab has no {what}\n" + "\n".join(tails))
            time.sleep(0.05)

    def end(self) -> None:
        """End all daemons, whatever they started, and remove the folder."""
        assert self._supervisor.stdin
        self._supervisor.stdin.close()
        self._supervisor.wait(timeout=READY_S)
        shutil.rmtree(self.folder, ignore_errors=True)


def new_folder() -> Path:
    """A folder for a lab, with the folders that daemons expect."""
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
    """The pids of what was started in a lab, or only in jobs on one node, or in one job."""
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


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all held at once so that they differ."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]
