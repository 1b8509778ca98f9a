"""The code that decides answers: its digest, and that it is not edited while it is imported.

A fingerprint holds DECODER_VERSION, which a person raises; an edit without that is seen here.
Imports no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from fastdllm.common.errors import UserError
from fastdllm.decoding.user_code import file_digest

PACKAGE = Path(__file__).parents[1]
# From the requests of a plan to the answers in a chunk. Neither task nor policy, which fingerprints
# hold, nor scoring, which is the same for all chunks of a result.
SOURCES = (
    *("decoding", "engine", "model", "policy.py", "settings.py", "tasks/generation.py"),
    *("runs/chunk_engine.py", "runs/commits.py", "runs/loaded_model.py"),
)


@cache
def code_digest() -> str:
    """Digest the sources as they are at the first call; comments and layout do not count.

    Raises:
        UserError: one cannot be read, or is not valid Python.
    """
    digests = [(str(path.relative_to(PACKAGE)), file_digest(path)) for path in source_files()]
    return hashlib.sha256(repr(digests).encode()).hexdigest()


def source_files() -> list[Path]:
    """Return the files of the sources, in one order."""
    places = [PACKAGE / name for name in SOURCES]
    return sorted(
        path
        for place in places
        for path in (place.glob("*.py") if place.suffix != ".py" else [place])
    )


@contextmanager
def imported_as_digested() -> Iterator[None]:
    """Digest the sources while the block imports them.

    Raises:
        UserError: a file was edited meanwhile; what is imported may be old and new code.
    """
    before = _dates()
    yield
    code_digest()
    edited = sorted(path for path, _ in before ^ _dates())
    if edited:
        raise UserError(f"{edited[0]}: edited while this process started; type the command again")


def _dates() -> set[tuple[Path, tuple[int, ...]]]:
    dates = ((path, path.stat()) for path in source_files())
    return {(path, (s.st_size, s.st_mtime_ns, s.st_ctime_ns)) for path, s in dates}
