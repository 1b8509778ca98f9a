"""`python -m fastdllm.launch eval ...`: `python -m fastdllm eval ...`, from a copy on this node.

With FASTDLLM_ENV_ARCHIVE set (an archive that `fastdllm env --pack` wrote), the environment is
unpacked to $TMPDIR once per node and job, and the command runs with that copy's Python, so that
thousands of small files are read from the node's own disk. Where that fails, one line says why, and
the environment on scratch is used, as without the variable. The process is replaced,
so signals reach the command itself.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from fastdllm.common.console import notice

ARCHIVE_VARIABLE = "FASTDLLM_ENV_ARCHIVE"


def main(arguments: list[str]) -> None:
    """Replace this process by `fastdllm` with the right Python; does not return."""
    archive = os.environ.get(ARCHIVE_VARIABLE)
    python = _unpacked_python(archive) if archive else _own_python()
    os.execv(python, [python, "-m", "fastdllm", *arguments])


def _own_python() -> str:
    if sys.prefix == sys.base_prefix:
        return sys.executable
    # On a cluster .venv is a link, which a new set-up moves to another environment; a run that
    # imports something late must get it from the one that it began with.
    return str(Path(sys.prefix).resolve() / "bin" / "python")


def _unpacked_python(archive: str) -> str:
    from fastdllm.cluster.archive import NotUnpacked, unpack_on_node

    started = time.monotonic()
    try:
        copy = unpack_on_node(Path(archive), Path(sys.prefix).resolve())
    except NotUnpacked as error:
        notice(f"the environment's archive: {error}; using {sys.prefix}")
        return _own_python()
    notice(f"the environment is {copy}, ready in {time.monotonic() - started:.1f} s")
    return str(copy / "bin" / "python")


if __name__ == "__main__":
    main(sys.argv[1:])
