"""Ports for the daemons of a lab that nobody else takes as long as the lab lives.

They lie outside the range from which the kernel takes ports for outgoing connections, so no
connection can hold one when a daemon binds it. Labs on this machine share the ports by blocks: a
lab holds an flock on the file of its block, which ends with the last process that has it open.
"""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BLOCK_FILES = Path(tempfile.gettempdir()) / f"fastdllm-lab-ports-{os.getuid()}"
OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
# Below lie the ports of common services.
FIRST, LAST = 10_240, 65_535
BLOCK_SIZE = 8


@dataclass(frozen=True, slots=True)
class Ports:
    """A block of ports. fileno: of the open file whose lock keeps them; pass it to the daemons."""

    numbers: tuple[int, ...]
    fileno: int


@contextmanager
def reserved_ports(folder: Path = BLOCK_FILES) -> Iterator[Ports]:
    """Reserve a block of ports; a process that inherits the file keeps them beyond the context."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for numbers in _blocks():
        with (folder / str(numbers[0])).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if all(map(_is_free, numbers)):
                yield Ports(numbers, lock.fileno())
                return
    raise RuntimeError(f"no {BLOCK_SIZE} free ports in a row from {FIRST} to {LAST}")


def outgoing_ports() -> range:
    """Return the ports that the kernel gives to outgoing connections."""
    first, last = map(int, OUTGOING.read_text().split())
    return range(first, last + 1)


def _blocks() -> list[tuple[int, ...]]:
    """Return the blocks without ports of outgoing connections; all where these are everywhere."""
    blocks = [tuple(range(i, i + BLOCK_SIZE)) for i in range(FIRST, LAST - BLOCK_SIZE, BLOCK_SIZE)]
    outgoing = outgoing_ports()
    return [b for b in blocks if b[0] not in outgoing and b[-1] not in outgoing] or blocks


def _is_free(port: int) -> bool:
    with socket.socket() as trial:
        # As the daemons do: connections that ended a moment ago do not count.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("", port))
        except OSError:
            return False
    return True
