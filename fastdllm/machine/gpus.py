"""One job per GPU on a workstation: a free card is taken before torch looks for one.

Each card has a lock of this user, an flock, which the operating system drops when its holder dies,
however it dies. SLURM gives a job its cards: one needs no lock, and several are shared among the
processes of this job only. Imports no torch, which would see all cards as soon as it is asked.
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
    """Take a free card for as long as the context lasts, and let CUDA see that one only.

    Waits while all are taken, and says so once. Does nothing for the CPU, for a card that was named
    (cuda:1), for the only card of a SLURM job, and on a machine without a card.

    Args:
        device: auto, cpu, cuda or cuda:N.
        folder: of the locks; by default one of this user on this machine, or of its SLURM job.

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
    before = os.environ.get(VISIBLE)
    with _taken(cards, folder or _own_folder(slurm_job)) as card:
        os.environ[VISIBLE] = card
        try:
            yield
        finally:
            if before is None:
                del os.environ[VISIBLE]
            else:
                os.environ[VISIBLE] = before


def visible_cards() -> tuple[str, ...]:
    """The cards that this process may use, as CUDA_VISIBLE_DEVICES names them; none: empty.

    Those of CUDA_VISIBLE_DEVICES where it is set, else all that nvidia-smi lists (slices of a card,
    where it is cut by MIG), else all that have a device file.
    """
    given = os.environ.get(VISIBLE)
    if given is not None:
        names = [name.strip() for name in given.split(",")]
        # For CUDA the first name that is none ends the list.
        stop = next((i for i, name in enumerate(names) if name in ("", "-1")), len(names))
        return tuple(dict.fromkeys(names[:stop]))
    listed = _nvidia_smi()
    if listed is None:
        return tuple(str(i) for i in range(len(list(DEVICES.glob("nvidia[0-9]*")))))
    slices = tuple(_SLICE.findall(listed))
    return slices or tuple(str(i) for i in range(len(_CARD.findall(listed))))


def _nvidia_smi() -> str | None:
    """What `nvidia-smi -L` prints; None where it cannot say."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=PATIENCE_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


@contextmanager
def _taken(cards: Sequence[str], folder: Path) -> Iterator[str]:
    is_told = False
    while True:
        for card in cards:
            lock = _lock(folder / f"{card.replace('/', '_')}.lock")
            if lock is not None:
                with lock:
                    yield card
                return
        if not is_told:
            what = "the GPU is" if len(cards) == 1 else f"all {len(cards)} GPUs are"
            sys.stderr.write(f"fastdllm: {what} taken by other runs; waiting for one\n")
            sys.stderr.flush()
            is_told = True
        time.sleep(RETRY_S)


def _lock(path: Path) -> IO[bytes] | None:
    """The open file that holds the lock until it is closed; None while another process has it."""
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
    os.utime(path)  # what nobody touched for days is cleared away from /tmp
    return handle


def _own_folder(slurm_job: str = "") -> Path:
    # All processes of this user on this machine must agree on it, whatever is in their environment:
    # two that looked into different folders would share a card. Where SLURM confines jobs to their
    # cards it may number those of each from 0.
    user = os.getuid()
    folder = Path(f"/tmp/fastdllm-gpus-{user}{'-job-' if slurm_job else ''}{slurm_job}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        owner = folder.lstat().st_uid
    except OSError as error:
        raise cannot("make", folder, error) from None
    if owner != user:
        raise UserError(f"{folder}: belongs to somebody else; ask them to remove it")
    return folder
