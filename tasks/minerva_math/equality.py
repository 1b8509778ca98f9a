"""Whether math-verify finds answers in LaTeX equal, however busy the machine is.

math-verify bounds itself by an alarm after 5 s, which fails in threads, and on a busy machine makes
right answers wrong. Here it works in processes of its own and without an alarm; the kernel ends one
that needs more than LIMIT_S seconds of processor time for a pair, whatever time that takes.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

EQUAL, DIFFERENT, UNDECIDED = "equal", "different", "undecided"
# Most pairs take milliseconds, a few a second.
LIMIT_S = 30
MEMORY = 2 * 2**30
# With fewer pairs for each, starting a process takes longer than what it saves.
LEAST_PAIRS, MOST_PROCESSES = 20, 8
# How a process ends at a limit, in Python or in a library.
_AT_A_LIMIT = (-signal.SIGXCPU, -signal.SIGABRT, -signal.SIGSEGV)


def verdicts(pairs: Sequence[tuple[str, str]], limit_s: int = LIMIT_S) -> list[str]:
    """Say of each pair, gold and answer, whether they are equal.

    Undecided is one that exceeds a limit, such as a tower of powers.

    limit_s: seconds of processor time for each pair.

    Raises:
        RuntimeError: a process that compares them fails.
    """
    has_affinity = hasattr(os, "sched_getaffinity")  # which only Linux has
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    n = min(cores, MOST_PROCESSES, 1 + len(pairs) // LEAST_PAIRS)
    found: list[list[str]] = [[] for _ in range(n)]
    with TemporaryDirectory(prefix="fastdllm-answers-") as folder:
        # After a pair that is undecided, a new process goes on.
        while left := [i for i in range(n) if len(found[i]) < len(pairs[i::n])]:
            with ExitStack() as stack:
                started = [
                    (i, _start(stack, pairs[i::n][len(found[i]) :], Path(folder, str(i)), limit_s))
                    for i in left
                ]
                for i, process in started:
                    code = process.wait()
                    found[i] += Path(folder, f"{i}.out").read_text(encoding="utf-8").split()
                    if code in _AT_A_LIMIT:
                        found[i].append(UNDECIDED)
                    elif code or len(found[i]) < len(pairs[i::n]):
                        why = " (killed, as where memory lacks)" * (code == -signal.SIGKILL)
                        raise RuntimeError(f"{__file__} failed with exit code {code}{why}")
    return [found[i % n][i // n] for i in range(len(pairs))]


def _start(
    stack: ExitStack, pairs: Sequence[tuple[str, str]], path: Path, limit_s: int
) -> subprocess.Popen[bytes]:
    """Start a process that compares pairs; it ends with the stack at the latest."""
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    with path.open("rb") as given, path.with_suffix(".out").open("wb") as verdicts_file:
        process = subprocess.Popen(
            # Not the folder of this file first on the path, where others may be named as libraries.
            [sys.executable, "-P", __file__, str(limit_s)],
            env={**os.environ, "PYTHONHASHSEED": "0"},
            stdin=given,
            stdout=verdicts_file,
            stderr=subprocess.DEVNULL,
        )
    stack.enter_context(process)
    stack.callback(process.kill)
    return process


def compare(gold: str, answer: str) -> str:
    """Compare two texts of boxes, in this process and without limits."""
    from math_verify import LatexExtractionConfig, parse, verify

    # All of a box or nothing: of a text that it does not understand, math-verify takes some part.
    whole = LatexExtractionConfig(try_extract_without_anchor=False, boxed_match_priority=0)
    read = [
        parse(rf"\boxed{{{text}}}", extraction_config=[whole], parsing_timeout=None)
        for text in (gold, answer)
    ]
    for expected, given in product(*read):
        try:
            if verify(expected, given, timeout_seconds=None, raise_on_error=True):
                return EQUAL
        except MemoryError:
            return UNDECIDED
        except Exception:  # sympy may raise anything for what it cannot compare
            continue
    return DIFFERENT


def main(limit_s: int) -> None:
    """Write the verdict of each pair that stands in a line of standard input."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # SLURM sends them to all; the parent acts on them
    parent = os.getppid()
    replies, sys.stdout = sys.stdout, sys.stderr  # where libraries may print
    import math_verify  # noqa: F401 (before the time of a pair begins)

    _limit(resource.RLIMIT_CORE, 0)
    if sys.platform == "linux":
        _limit(resource.RLIMIT_AS, MEMORY)
    for line in sys.stdin:
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + limit_s)
        print(compare(*json.loads(line)), file=replies, flush=True)
        if os.getppid() != parent:
            return


def _limit(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


if __name__ == "__main__":
    main(int(sys.argv[1]))
