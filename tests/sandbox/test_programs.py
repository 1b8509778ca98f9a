"""What a program in the sandbox sees, and what is said of it."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fastdllm.common.errors import UserError
from fastdllm.sandbox import process_tree
from fastdllm.sandbox.process_tree import descendants, stat_fields, waiting_s
from fastdllm.sandbox.programs import (
    WAYS,
    Isolation,
    Program,
    ProgramVerdict,
    best_isolation,
    lacking_of,
    run_programs,
)
from fastdllm.sandbox.warden import _Watch
from tests.sandbox.test_hostile_programs import use_way

pytestmark = pytest.mark.slow

PASSED = ProgramVerdict("passed")
MARK = f"kept{os.getpid() % 10**8}"


@pytest.fixture(scope="module")
def all_apart() -> None:
    if best_isolation() != WAYS[0]:
        pytest.skip("this machine does not allow namespaces to this user")


def verdict(code: str, tests: str = "") -> ProgramVerdict:
    return run_programs([Program(code, tests)])[0]


def test_verdicts_are_in_the_order_of_the_programs() -> None:
    programs = [
        Program(f"import time\ntime.sleep({n % 3 / 20})", f"assert {n} % 2") for n in range(9)
    ]
    outcomes = [verdict.outcome for verdict in run_programs(programs)]
    assert outcomes == ["failed", "passed"] * 4 + ["failed"]


@pytest.mark.parametrize(
    ("code", "tests", "reason"),
    [
        ("x = 1", "assert x == 2, 'too small'", "AssertionError: too small"),
        ("x = 1", "y", "NameError: name 'y' is not defined"),
        ("x = (", "x", "SyntaxError: '(' was never closed (answer, line 1)"),
        ("import sys\nsys.exit('done')", "x", "SystemExit: done"),
        ("import os\nos._exit(3)", "x", "ended before its tests did, with exit code 3"),
        ("import ctypes\nctypes.string_at(0)", "x", "ended by SIGSEGV"),
        ("import os\nos.kill(os.getpid(), 35)", "x", "ended by signal 35"),
    ],
)
def test_the_reason_is_one_line(code: str, tests: str, reason: str) -> None:
    assert verdict(code, tests) == ProgramVerdict("failed", reason)


@pytest.mark.parametrize(
    ("code", "tests"),
    [
        ("import numpy\n", "assert numpy.arange(3).sum() == 3"),
        (
            "from __future__ import annotations\nfrom dataclasses import dataclass\n"
            "@dataclass\nclass A:\n    x: int\n",
            "import typing\nassert typing.get_type_hints(A) == {'x': int}",
        ),
        ("import asyncio\nasync def f():\n    return 3\n", "assert asyncio.run(f()) == 3"),
        ("print('ä' * 10)\nif __name__ == '__main__':\n    input()\n", "assert True"),
        ("from threading import Thread\nt = Thread(target=print)\nt.start()\n", "t.join()"),
        ("open('f', 'w').write('x')\n", "assert open('f').read() == 'x'"),
        ("import tempfile\n", "tempfile.TemporaryFile().write(b'x')"),
        ("import subprocess\n", "assert subprocess.run(['echo', 'x'], capture_output=True).stdout"),
        (
            "from threading import Barrier, Thread\nall_run = Barrier(50)\n",
            "threads = [Thread(target=all_run.wait) for _ in range(50)]\n"
            "for t in threads:\n    t.start()\nfor t in threads:\n    t.join()\n",
        ),
    ],
)
def test_ordinary_programs_work(code: str, tests: str) -> None:
    assert verdict(code, tests) == PASSED


def test_sets_have_one_order() -> None:
    order = "','.join({'a', 'b', 'c', 'd', 'e', 'f'})"
    said = verdict(f"raise ValueError({order})").reason
    assert verdict(f"assert {order} == {said.removeprefix('ValueError: ')!r}") == PASSED


def test_nothing_is_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    reading, writing = os.pipe()
    os.set_inheritable(reading, True)
    os.set_inheritable(writing, True)
    allowed = {"HOME", "LC_CTYPE", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "PYTHONHASHSEED"}
    allowed |= {"PYTHONDONTWRITEBYTECODE", "PYTHONUTF8", "OMP_NUM_THREADS"}
    allowed |= {"OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "MALLOC_ARENA_MAX"}
    depth = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (4 << 20, depth[1]))
    code = f"""
import os, resource, sys
assert resource.getrlimit(resource.RLIMIT_STACK)[0] == 8 << 20
assert not set(os.environ) - {allowed}, set(os.environ)
assert os.environ['HOME'] == os.environ['TMPDIR'] == os.getcwd()
assert not os.listdir()
assert sys.stdin.read() == ''
for number in range(5, 64):
    try:
        os.fstat(number)
    except OSError:
        continue
    raise ValueError(number)
"""
    found = verdict(code)
    resource.setrlimit(resource.RLIMIT_STACK, depth)
    os.close(reading)
    os.close(writing)
    assert found == PASSED


@pytest.mark.usefixtures("all_apart")
def test_files_and_processes_of_others_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    code = f"""
import os, sys
for place in {[str(tmp_path), str(Path.cwd() / "tests"), str(Path.home() / ".ssh"), "/home"]}:
    assert not os.path.exists(place), place
names = [name for name in os.listdir('/proc') if name.isdecimal()]
assert len(names) <= 2, names
import resource
written = []
for place, folders, files in os.walk('/'):
    if place.startswith(('/proc', '/sandbox')):
        folders.clear()
        continue
    if os.access(place, os.W_OK):
        written.append(place)
    if place.count('/') > 3:
        folders.clear()
assert not written, written
"""
    assert verdict(code) == PASSED


@pytest.mark.parametrize(
    ("way", "is_filtered", "is_other_user", "lacking"),
    [
        (WAYS[0], True, False, []),
        (WAYS[0], False, False, []),
        (WAYS[1], True, False, []),
        (WAYS[1], False, True, ["the network"]),
        (WAYS[1], False, False, ["the network", "the processes of this user"]),
        (WAYS[2], True, True, ["files that everybody can read"]),
        (WAYS[2], True, False, ["the files of this user", "the processes of this user"]),
        (
            *(WAYS[2], False, False),
            ["the files of this user", "the network", "the processes of this user"],
        ),
    ],
)
def test_what_a_machine_lacks_is_said(
    way: Isolation, is_filtered: bool, is_other_user: bool, lacking: list[str]
) -> None:
    record = {"is_filtered": is_filtered, "is_other_user": is_other_user}
    assert lacking_of(way, record) == lacking


def test_a_machine_that_runs_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(UserError, match=r"cannot start /no/such/python here: .* No such file"):
        best_isolation()


def test_a_process_that_waits_may_be_killed(tmp_path: Path) -> None:
    script = f"""
import signal
from fastdllm.sandbox.programs import Limits, Program, run_programs
signal.signal(signal.SIGINT, signal.default_int_handler)
code = "import ctypes, os, time\\nctypes.CDLL(None).prctl(15, b'{MARK}', 0, 0, 0)\\n"
code += "os.fork()\\ntime.sleep(99)"
run_programs([Program(code, "")] * 2)
"""
    for number in (signal.SIGKILL, signal.SIGINT):
        environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(Path.cwd())}
        waiting = subprocess.Popen(
            [sys.executable, "-c", script], env=environment, stderr=subprocess.DEVNULL
        )
        while not kept():
            assert waiting.poll() is None
            time.sleep(0.05)
        waiting.send_signal(number)
        waiting.wait()
        while kept() or list(tmp_path.iterdir()):  # a warden, too, needs a moment
            time.sleep(0.05)


def test_a_program_ends_with_its_warden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    use_way(WAYS[-1], monkeypatch)
    code = f"import ctypes, time\nctypes.CDLL(None).prctl(15, b'{MARK}', 0, 0, 0)\ntime.sleep(99)"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(run_programs, [Program(code, "")], isolation=WAYS[-1])
        while not kept():
            assert not waiting.done()
            time.sleep(0.05)
        for pid in descendants(os.getpid()):
            if stat_fields(pid)[1] == str(os.getpid()) and "warden" in command(pid):
                os.kill(pid, signal.SIGKILL)
        with pytest.raises(UserError, match="exit code -9"):
            waiting.result()
    while kept():
        time.sleep(0.05)


def test_what_else_a_user_starts_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    use_way(WAYS[-1], monkeypatch)
    code = f"""
import ctypes, threading, time
ctypes.CDLL(None).prctl(15, b'{MARK}', 0, 0, 0)
while int(open('/proc/{os.getpid()}/stat').read().rpartition(')')[2].split()[17]) < 120:
    time.sleep(0.02)
for _ in range(20):
    threading.Thread(target=time.sleep, args=(1,)).start()
"""
    are_counted = threading.Event()
    with ThreadPoolExecutor(121) as pool:
        waiting = pool.submit(run_programs, [Program(code, "")], isolation=WAYS[-1])
        while not kept():
            assert not waiting.done()
            time.sleep(0.05)
        for _ in range(120):
            pool.submit(are_counted.wait)
        try:
            assert waiting.result() == [PASSED]
        finally:
            are_counted.set()


@pytest.mark.parametrize(
    ("clock_s", "waited_s", "is_timeout"),
    [(60, 0, False), (61, 0, True), (80, 30, False), (91, 30, True), (601, 600, True)],
)
def test_waiting_for_a_processor_is_no_time_of_a_program(
    clock_s: float, waited_s: float, is_timeout: bool, tmp_path: Path
) -> None:
    watch = _Watch({"limits": {"wall_s": 60}}, tmp_path, None, waited_s=waited_s)
    watch.is_started = True
    decided = watch._by_clock(clock_s)
    assert decided == (("timeout", "did not end within 60 s") if is_timeout else None)


def test_a_python_that_does_not_start_is_no_verdict(tmp_path: Path) -> None:
    watch = _Watch({"limits": {"wall_s": 60}}, tmp_path, None)
    assert watch._by_clock(120) is None
    with pytest.raises(OSError, match="Python did not start within 120 s"):
        watch._by_clock(121)


def test_hidden_processes_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_tree, "_pids", lambda: iter(()))  # as where /proc has hidepid
    child = subprocess.Popen(["sleep", "99"])
    try:
        assert child.pid in descendants(os.getpid())
    finally:
        child.kill()
        child.wait()
    assert waiting_s(os.getpid()) >= 0
    assert waiting_s(child.pid) == 0


def command(pid: int) -> str:
    return text(Path(f"/proc/{pid}/cmdline"))


def kept() -> list[str]:
    return [c.parent.name for c in Path("/proc").glob("[0-9]*/comm") if text(c) == MARK]


def text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
