"""Run programs in the sandbox, several at once, and say what came of each.

A program is the code of an answer and the tests of its item. It passes if both run to their ends;
whatever else it does, this process, its files and its network are out of its reach, as far as this
machine allows: `lacking` says what it does not.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fastdllm.common.errors import UserError
from fastdllm.machine.cgroups import memory_left
from fastdllm.machine.threads import allowed_threads

HERE = Path(__file__).parent
# The warden needs only Python's own library and this package.
_WARDEN = (
    "import sys; sys.path.insert(0, {root!r}); from fastdllm.sandbox.warden import main; main()"
)
_SYSTEM = (
    *("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr", "/opt", "/nix"),
    *("/etc/ld.so.cache", "/etc/localtime"),
)
_DEVICES = tuple(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom"))
_OF_PYTHON = ("bin", "lib", "lib64", "share/zoneinfo", "pyvenv.cfg")
_WITH_LIBRARIES = ("bz2", "ctypes", "decimal", "hashlib", "lzma", "sqlite3", "ssl", "zlib")
# More at once gain little, and need as many processes.
MOST_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use.

    Processor time decides, as it is the same on a busy machine; the time on the clock is for
    programs that sleep, and leaves out that of waiting for a processor. memory_bytes counts for
    each process, and for all of them together.
    """

    cpu_s: int = 10
    wall_s: int = 60
    memory_bytes: int = 2 << 30
    processes: int = 64
    open_files: int = 64
    file_bytes: int = 16 << 20
    folder_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class Program:
    """The code of an answer, and the tests that are run after it, with its names."""

    code: str
    tests: str


@dataclass(frozen=True, slots=True)
class ProgramVerdict:
    """What came of a program; reason: why it has not passed, in one line."""

    outcome: Literal["passed", "failed", "timeout"]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Isolation:
    """How programs are kept apart here, and what of it this machine lacks.

    files: those that a program has are its own, as are processes and network (namespaces), or some
        of this machine's by rules, or all of them.
    """

    files: Literal["own", "ruled", "all"]
    lacking: tuple[str, ...] = ()


# From the best to the one that needs nothing of a machine.
WAYS = (Isolation("own"), Isolation("ruled"), Isolation("all"))


def run_programs(
    programs: Sequence[Program],
    limits: Limits | None = None,
    *,
    isolation: Isolation | None = None,
) -> list[ProgramVerdict]:
    """Run programs, as many at once as there are processors; return their verdicts in order.

    isolation: how they are kept apart; None: in the best way that there is here.

    Raises:
        UserError: this machine runs no program at all.
    """
    if not programs:
        return []
    limits = limits or Limits()
    wardens = _Wardens(isolation or best_isolation(), limits)
    with ThreadPoolExecutor(_at_once(len(programs), limits)) as pool:
        try:
            return [_verdict(record) for record in pool.map(wardens.run, programs)]
        except BaseException:  # a signal, among others
            pool.shutdown(wait=False, cancel_futures=True)
            wardens.stop()
            raise


def best_isolation() -> Isolation:
    """Return the best way in which this machine runs a program that is known to pass.

    Raises:
        UserError: there is none.
    """
    trial = Program(f"import {', '.join(_importable())}\n", "assert math.floor(1.5) == 1\n")
    problem = ""
    for way in WAYS:
        record = _Wardens(way, Limits()).run(trial)
        if record.get("outcome") == "passed":
            return replace(way, lacking=tuple(lacking_of(way, record)))
        problem = record.get("setup") or record["reason"]
    raise UserError(
        f"the sandbox for the code of answers cannot start {sys.executable} here: {problem}; root "
        "needs one that other users can start, and docs/sandbox.md says what else is needed"
    )


def _importable() -> list[str]:
    """Return modules of Python that are there, among those that need libraries of others."""
    found = ["math"]
    for name in _WITH_LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(name)
            found.append(name)
    return found


def lacking_of(way: Isolation, record: dict[str, Any]) -> list[str]:
    """Say what a machine does not keep apart."""
    if way.files == "own":
        return []
    lacking, is_other = [], record["is_other_user"]
    if way.files == "all":
        lacking.append("files that everybody can read" if is_other else "the files of this user")
    if not record["is_filtered"]:
        lacking.append("the network")
    # By signals, and without rules of files by /proc.
    if not is_other and (way.files == "all" or not record["is_filtered"]):
        lacking.append("the processes of this user")
    return lacking


class _Wardens:
    """The processes that run programs, each one of them."""

    def __init__(self, isolation: Isolation, limits: Limits) -> None:
        self._job = {
            "source": (HERE / "inside.py").read_text(encoding="utf-8"),
            "argv": [sys.executable, "-s", "-P", "-c"],
            "env": _environment(),
            "readable": _readable(),
            "limits": asdict(limits),
            "devices": _DEVICES,
            "files": isolation.files,
            "tmp": tempfile.gettempdir(),
            "parent": os.getpid(),
        }
        self._running: set[subprocess.Popen[bytes]] = set()
        self._is_stopped = False

    def run(self, program: Program) -> dict[str, Any]:
        """Return what came of one program, or why it was not run ("setup")."""
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _WARDEN.format(root=str(HERE.parents[1]))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_libraries(),
                start_new_session=True,
            )
        except OSError as error:
            return {"setup": str(error)}
        self._running.add(process)
        if self._is_stopped:
            process.terminate()
        output, errors = process.communicate(json.dumps(self._job | asdict(program)).encode())
        self._running.discard(process)
        if process.returncode:
            last = errors.decode(errors="replace").strip().rpartition("\n")[2]
            return {"setup": f"exit code {process.returncode}: {last}"}
        record = json.loads(output)
        assert isinstance(record, dict)
        return record

    def stop(self) -> None:
        """End those that run; they take their programs with them."""
        self._is_stopped = True
        for process in list(self._running):
            process.terminate()


def _verdict(record: dict[str, Any]) -> ProgramVerdict:
    """Return the verdict of a record.

    Raises:
        UserError: the program was not run, so that there is none.
    """
    if "setup" in record:
        raise UserError(
            f"the sandbox for the code of answers failed: {record['setup']}; start the same "
            "command again"
        )
    return ProgramVerdict(record["outcome"], record["reason"])


def _at_once(n_programs: int, limits: Limits) -> int:
    free = memory_left()
    of_memory = MOST_AT_ONCE if free is None else free // limits.memory_bytes
    return max(min(n_programs, allowed_threads(), of_memory, MOST_AT_ONCE), 1)


def _environment() -> dict[str, str]:
    """Return the variables of a program: none of the user's, and one order of sets for all."""
    fixed = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}
    fixed |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    # Else each thread takes 64 MiB and more of the limit.
    fixed["MALLOC_ARENA_MAX"] = "1"
    return {**fixed, "PATH": "/usr/bin:/bin", **_libraries()}


def _libraries() -> dict[str, str]:
    """Return the variable without which some clusters' Python cannot start."""
    name = "LD_LIBRARY_PATH"
    return {name: os.environ[name]} if name in os.environ else {}


def _readable() -> list[str]:
    """Return where a Linux has its programs and libraries, and Python is with its packages."""
    python = os.path.realpath(sys.executable)
    folders = [*_SYSTEM, sys.executable, python]
    prefixes = (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)
    # Not all below, as somebody's home folder may be one.
    for prefix in (*prefixes, str(Path(python).parents[1])):
        folders += [f"{prefix}/{name}" for name in _OF_PYTHON]
    folders += filter(os.path.isabs, "".join(_libraries().values()).split(":"))
    folders += _folders_of_libraries()
    return list(dict.fromkeys(folders))


def _folders_of_libraries() -> set[str]:
    """Return the lib folders of what this process has loaded: some clusters have many of them."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    files = {Path(line[line.index("/") :]) for line in lines if "/" in line}
    folders = {file.parent for file in files if ".so" in file.name}
    return {str(folder) for folder in folders if folder.name in ("lib", "lib64")}
