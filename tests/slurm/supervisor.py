"""Starts the daemons of one lab, and ends them with all they started when its input closes.

A process of its own, because a test session may be killed at any moment: the kernel closes the pipe
then. It adopts every orphan below it (PR_SET_CHILD_SUBREAPER), so that no job, however often it
forked, outlives the lab; commands that talk to the lab end with it too. Run as: python
supervisor.py FOLDER, with one JSON list of words per line of input, the name of a daemon and its
command; its pid is the line of output.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

# A variable that commands in the lab get and daemons do not: the folder of the lab.
CLIENT = "LAB_CLIENT"
PR_SET_CHILD_SUBREAPER = 36
POLITE_S = 3.0
GIVE_UP_S = 20.0


def main(folder: Path) -> None:
    """Hold the folder's lock, start what is asked for, and end it all at the end of input."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # A Ctrl-C of the session must not come before its own orderly end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            serve(folder)
        finally:
            kill_clients(folder)
            end_descendants()


def serve(folder: Path) -> None:
    """Start a daemon for each line of input; bury the dead in between."""
    pending = b""
    while True:
        bury()
        if not select.select([0], [], [], 0.2)[0]:
            continue
        read = os.read(0, 65536)
        if not read:
            return
        *lines, pending = (pending + read).split(b"\n")
        for line in lines:
            os.write(1, b"%d\n" % start(*json.loads(line), folder=folder))


def start(name: str, *command: str, folder: Path) -> int:
    """Start a daemon whose output goes to log/<name>.out."""
    with (folder / "log" / f"{name}.out").open("ab") as out:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        ).pid


def bury() -> None:
    """Reap all dead children, adopted ones too."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def end_descendants() -> None:
    """Ask all descendants to end, then kill those that stay, until none is left."""
    started = time.monotonic()
    send(signal.SIGTERM)
    while descendants() and (waited_s := time.monotonic() - started) < GIVE_UP_S:
        if waited_s > POLITE_S:
            send(signal.SIGKILL)
        time.sleep(0.05)
        bury()


def kill_clients(folder: Path) -> None:
    """Kill the commands in this lab that are no jobs; a Snakemake would go on to submit."""
    mark = f"{CLIENT}={folder}".encode()
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            words = entry.read_bytes().split(b"\0")
            if mark in words and not any(word.startswith(b"SLURM_JOB_ID=") for word in words):
                os.kill(int(entry.parent.name), signal.SIGKILL)
        except OSError:
            continue  # it ended just now, or is another user's


def send(number: int) -> None:
    """Send a signal to all descendants."""
    for pid in descendants():
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def descendants() -> list[int]:
    """The pids of all living processes below this one."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = entry.read_text()
        except OSError:
            continue
        pid, rest = int(entry.parent.name), text.rpartition(")")[2].split()
        if rest[0] != "Z":
            parents[pid] = int(rest[1])
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found - {os.getpid()})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
