"""One run per GPU on a workstation: a free card is taken before torch enumerates them.

Each card has a lock file of this user (common/locks.py). SLURM assigns a job its cards: a single
one needs no lock, and several are shared among the processes of this job only. Imports no torch,
which remembers the cards that it saw first.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fastdllm.common.console import notice
from fastdllm.common.errors import UserError
from fastdllm.common.files import cannot
from fastdllm.common.locks import take_lock

VISIBLE = "CUDA_VISIBLE_DEVICES"
DEVICES = Path("/dev")
# nvidia-smi takes seconds where the driver has to be loaded first.
PATIENCE_S = 30.0
RETRY_S = 0.5

_CARD = re.compile(r"^GPU \d+:", re.MULTILINE)
_SLICE = re.compile(r"^\s+MIG .*\(UUID: (MIG-[^)]+)\)", re.MULTILINE)


@contextmanager
def card_for(device: str, *, folder: Path | None = None) -> Iterator[None]:
    """Hold a free card while the context lasts, and show CUDA that one only.

    Waits while all are taken, and reports that once. Does nothing for the CPU, for a card that was
    named (cuda:1), for the only card of a SLURM job, and on a machine without a card.

    Args:
        device: auto, cpu, cuda or cuda:N.
        folder: of the locks; default: one per user and machine, or per SLURM job.

    Raises:
        UserError: the folder cannot be used.
    """
    if device not in ("auto", "cuda"):
        yield
        return
    slurm_job = os.environ.get("SLURM_JOB_ID", "")
    cards = visible_cards()
    if len(cards) <= (1 if slurm_job else 0):
        yield
        return
    previous = os.environ.get(VISIBLE)
    with _taken(cards, folder or _own_folder(slurm_job)) as card:
        os.environ[VISIBLE] = card
        try:
            yield
        finally:
            if previous is None:
                del os.environ[VISIBLE]
            else:
                os.environ[VISIBLE] = previous


def visible_cards() -> tuple[str, ...]:
    """Return the cards that this process may use, named as in CUDA_VISIBLE_DEVICES.

    Those of CUDA_VISIBLE_DEVICES if it is set, else all that nvidia-smi lists (slices of a card
    that MIG divides), else all that have a device file.
    """
    variable = os.environ.get(VISIBLE)
    if variable is not None:
        names = [name.strip() for name in variable.split(",")]
        # CUDA ends the list at the first name that names no card.
        stop = next((i for i, name in enumerate(names) if name in ("", "-1")), len(names))
        return tuple(dict.fromkeys(names[:stop]))
    listed = _nvidia_smi()
    if listed is None:
        return tuple(str(i) for i in range(len(list(DEVICES.glob("nvidia[0-9]*")))))
    slices = tuple(_SLICE.findall(listed))
    return slices or tuple(str(i) for i in range(len(_CARD.findall(listed))))


def _nvidia_smi() -> str | None:
    """Return what `nvidia-smi -L` prints; None if it fails."""
    try:
        printed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=PATIENCE_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return printed.stdout


@contextmanager
def _taken(cards: Sequence[str], folder: Path) -> Iterator[str]:
    is_reported = False
    while True:
        for card in cards:
            lock = _lock(folder / f"{card.replace('/', '_')}.lock")
            if lock is not None:
                with lock:
                    yield card
                return
        if not is_reported:
            what = "the GPU is" if len(cards) == 1 else f"all {len(cards)} GPUs are"
            notice(f"{what} taken by other runs; waiting for one")
            sys.stderr.flush()
            is_reported = True
        time.sleep(RETRY_S)


def _lock(path: Path) -> IO[bytes] | None:
    """Return the open file that holds the lock until it is closed; None if it is taken."""
    try:
        handle = path.open("ab")
    except OSError as error:
        raise cannot("write", path, error) from None
    try:
        is_taken = take_lock(handle)
    except OSError as error:
        handle.close()
        raise cannot("lock", path, error) from None
    if not is_taken:
        handle.close()
        return None
    os.utime(path)  # /tmp is cleared of files that were not touched for days
    return handle


def _own_folder(slurm_job: str = "") -> Path:
    # All processes of this user on this machine must use the same folder, whatever their
    # environment: in different folders, two would take the same card. SLURM may number the cards of
    # each job from 0, so those have a folder per job.
    user = os.getuid()
    folder = Path(f"/tmp/fastdllm-gpus-{user}{'-job-' if slurm_job else ''}{slurm_job}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        owner = folder.lstat().st_uid
    except OSError as error:
        raise cannot("make", folder, error) from None
    if owner != user:
        raise UserError(f"{folder}: belongs to another user; ask them to remove it")
    return folder
