"""The steps of scripts/setup.sh that need Python: lock, name and record of an environment.

`python -m fastdllm.cluster.build STEP ...`, run by the Python that builds the environment, so only
the standard library is available. A refusal is one line on stderr and exit code 2.

    lock FD               wait for the lock on an open file, which the shell then holds
    name PYTHON           print the name of this project's environment for Python 3.11, say
    place FOLDER          make the folder of environments; refuse one that does not fit
    caches VENV SCRATCH   write VENV/fastdllm-env.sh, which activate sources
    record VENV           record what was built, and mark it as complete
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from fastdllm.cluster.venv import (
    READY,
    RECORD,
    UNFINISHED,
    Built,
    count_files,
    default_caches,
    environment_name,
    requirements_digest,
)
from fastdllm.common.errors import USER_ERROR_EXIT_CODE, UserError
from fastdllm.common.files import cannot, now, write_json_atomically, write_text_atomically
from fastdllm.common.locks import take_lock

CACHES = "fastdllm-env.sh"
# The packages take 2 GiB for a CPU and 7 GiB with CUDA; in less than this neither fits.
LEAST_FREE_GIB = 3


def lock(descriptor: str) -> None:
    """Wait for the lock on a file that the shell has open; it ends with the shell.

    An flock belongs to the open file, not to the process: the shell keeps it after this process
    ends, and the system drops it when the shell dies, however it dies.
    """
    number = int(descriptor)
    try:
        if not take_lock(number):
            holder = os.pread(number, 200, 0).decode(errors="replace").strip() or "another one"
            sys.stdout.write(f"make setup: waiting for the set-up of {holder}\n")
            sys.stdout.flush()
            take_lock(number, wait=True)
    except OSError as error:
        raise UserError(
            f"this file system has no file locks ({error.strerror}), which keep two set-ups and "
            "two evals apart; put the project on another one"
        ) from None
    os.ftruncate(number, 0)
    os.pwrite(number, f"process {os.getppid()} on {socket.gethostname()}\n".encode(), 0)


def name(python: str) -> None:
    """Print the name of this project's environment."""
    sys.stdout.write(environment_name(Path(), python) + "\n")


def place(folder: str) -> None:
    """Make the folder of environments, and refuse it if none fits in."""
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        free_gib = shutil.disk_usage(path).free / 2**30
    except OSError as error:
        raise cannot("make", path, error) from None
    if not os.access(path, os.W_OK):
        raise UserError(f"{path}: not writable for you; choose another folder: SCRATCH=...")
    if free_gib < LEAST_FREE_GIB:
        raise UserError(
            f"{path}: {free_gib:.1f} GiB are free, and an environment needs {LEAST_FREE_GIB} (7 "
            "with CUDA); free some, or choose another folder: SCRATCH=..."
        )


def caches(venv: str, scratch: str) -> None:
    """Write the shell file that puts caches on scratch; variables that are set keep their value."""
    lines = ["# Caches on scratch, as a home has little space; variables that are set stay."]
    lines += [
        f'[ -n "${{{variable}:-}}" ] || export {variable}={shlex.quote(str(folder))}'
        for variable, folder in default_caches(Path(scratch) / "cache").items()
    ]
    write_text_atomically(Path(venv) / CACHES, "\n".join(lines) + "\n")
    activate = Path(venv) / "bin" / "activate"
    line = f". {shlex.quote(str(Path(venv) / CACHES))}\n"
    if activate.is_file() and line not in activate.read_text(encoding="utf-8"):
        with activate.open("a", encoding="utf-8") as stream:
            stream.write(line)


def record(venv: str) -> None:
    """Record what was built, and mark it as complete."""
    folder = Path(venv)
    files, size = count_files(folder)
    packages = sorted(p.name for p in folder.glob("lib/python3*/site-packages/*.dist-info"))
    built = Built(
        name=folder.resolve().name,
        requirements=requirements_digest(Path()),
        python=platform.python_version(),
        project=str(Path().resolve()),
        built=now(),
        files=files,
        bytes=size,
        packages=tuple(package.removesuffix(".dist-info") for package in packages),
    )
    write_json_atomically(folder / RECORD, asdict(built))
    (folder / UNFINISHED).unlink(missing_ok=True)
    (folder / READY).touch()


STEPS: dict[str, Callable[..., None]] = {
    step.__name__: step for step in (lock, name, place, caches, record)
}

if __name__ == "__main__":
    try:
        STEPS[sys.argv[1]](*sys.argv[2:])
    except UserError as problem:
        sys.stderr.write(f"make setup: {problem}\n")
        sys.exit(USER_ERROR_EXIT_CODE)
