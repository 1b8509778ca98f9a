"""Programs that mean harm: each ends with a verdict, and leaves nothing behind."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

from fastdllm.common.errors import UserError
from fastdllm.sandbox.programs import (
    WAYS,
    Isolation,
    Limits,
    Program,
    ProgramVerdict,
    run_programs,
)

pytestmark = pytest.mark.slow

LIMITS = Limits(cpu_s=1, wall_s=3, memory_bytes=1 << 30, folder_bytes=8 << 20)
# By this name, what a program leaves is found; its children inherit it.
MARK = f"left{os.getpid() % 10**8}"
BEGINNING = (
    f"import ctypes, os, sys, time, signal\nctypes.CDLL(None).prctl(15, b'{MARK}', 0, 0, 0)\n"
)
TESTS = "assert answer(2) == 4\n"
RIGHT = "def answer(x):\n    return 2 * x\n"

# Name: code, tests, and the outcome.
HOSTILE = {
    "fork bomb": ("while True:\n    os.fork()\n", TESTS, ("failed", "timeout")),
    "fork bomb that ignores failures": (
        "while True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n",
        TESTS,
        ("failed", "timeout"),
    ),
    "endless loop": ("while True:\n    pass\n", TESTS, ("timeout",)),
    "endless loop in a test": (
        "def answer(x):\n    while True:\n        pass\n",
        TESTS,
        ("timeout",),
    ),
    "endless loop of children": (
        "for _ in range(3):\n    os.fork()\nwhile True:\n    pass\n",
        TESTS,
        ("timeout",),
    ),
    "sleep": ("time.sleep(10**6)\n", TESTS, ("timeout",)),
    "ten gigabytes": (f"{RIGHT}x = bytearray(10 * 2**30)\n", TESTS, ("failed",)),
    "gigabytes in many processes": (
        "for _ in range(8):\n    os.fork()\nx = b'x' * (600 << 20)\ntime.sleep(9)\n",
        TESTS,
        ("failed",),
    ),
    "printing without end": ("while True:\n    print('x' * 10**6)\n", TESTS, ("timeout",)),
    "writing to the sandbox without end": (
        "while True:\n    os.write(4, b'x' * 10**5)\n",
        TESTS,
        ("failed",),
    ),
    "killing its parent": (f"{RIGHT}os.kill(os.getppid(), 9)\n", TESTS, ("failed",)),
    "killing its group": (f"{RIGHT}os.killpg(os.getpgid(os.getppid()), 9)\n", TESTS, ("failed",)),
    "killing all": (f"{RIGHT}os.kill(-1, 9)\n", TESTS, ("failed",)),
    "killing itself": (f"{RIGHT}os.kill(os.getpid(), 9)\n", TESTS, ("failed",)),
    "ignoring signals": (
        "for s in range(1, 32):\n    try:\n        signal.signal(s, signal.SIG_IGN)\n"
        "    except OSError:\n        pass\nwhile True:\n    pass\n",
        TESTS,
        ("timeout",),
    ),
    "a daemon": (
        f"{RIGHT}if not os.fork():\n    os.setsid()\n    if os.fork():\n        os._exit(0)\n"
        "    while True:\n        time.sleep(1)\n",
        TESTS,
        ("passed",),
    ),
    "copies of itself": (
        f"for _ in range(4):\n    os.fork()\n{RIGHT}",
        TESTS,
        ("passed",),
    ),
    "a daemon, and an end": (
        "if not os.fork():\n    os.setsid()\n    time.sleep(99)\nos._exit(0)\n",
        TESTS,
        ("failed",),
    ),
    "filling the disk": (
        f"{RIGHT}for i in range(10**6):\n    open(str(i), 'w').write('x' * 10**6)\n",
        TESTS,
        ("failed",),
    ),
    "one endless file": (
        f"{RIGHT}f = open('f', 'w')\nwhile True:\n    f.write('x' * 10**6)\n",
        TESTS,
        ("failed",),
    ),
    "folders that cannot be entered": (
        f"{RIGHT}os.makedirs('a/b/c')\nopen('a/b/c/d', 'w').close()\nos.chmod('a/b', 0)\n",
        TESTS,
        ("passed", "failed"),
    ),
    "filling folders that cannot be entered": (
        "for i in range(12):\n    os.mkdir(f'{i}')\n"
        "    open(f'{i}/x', 'wb').write(bytes(1 << 20))\n    os.chmod(f'{i}', 0)\ntime.sleep(99)\n",
        TESTS,
        ("failed",),
    ),
    "filling a folder that is too deep": (
        "for _ in range(99):\n    os.mkdir('d' * 50)\n    os.chdir('d' * 50)\n"
        "for i in range(12):\n    open(f'{i}', 'wb').write(bytes(1 << 20))\ntime.sleep(99)\n",
        TESTS,
        ("failed",),
    ),
    "filling files without a name": (
        "kept = []\nfor i in range(12):\n    kept.append(open('x', 'wb', 0))\n"
        "    kept[-1].write(bytes(1 << 20))\n    os.unlink('x')\ntime.sleep(99)\n",
        TESTS,
        ("failed",),
    ),
    "many empty files": (
        f"{RIGHT}for i in range(10**6):\n    open(str(i), 'w').close()\n",
        TESTS,
        ("failed",),
    ),
    "a socket": (f"{RIGHT}import socket\nsocket.socket()\n", TESTS, ("failed",)),
    "looking for a host": (
        f"{RIGHT}import socket\nsocket.create_connection(('1.1.1.1', 53), 5)\n",
        TESTS,
        ("failed",),
    ),
    "becoming root": (f"{RIGHT}os.setuid(0)\nos.mkdir('/etc/x')\n", TESTS, ("failed",)),
    "namespaces of its own": (
        f"{RIGHT}import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0\n",
        TESTS,
        ("failed",),
    ),
    "limits of another": (
        f"{RIGHT}import resource\nresource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0))\n",
        TESTS,
        ("failed",),
    ),
    "higher limits": (
        f"{RIGHT}import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))\n",
        TESTS,
        ("failed",),
    ),
    "exit at once": ("sys.exit(0)\n", TESTS, ("failed",)),
    "hard exit at once": ("os._exit(0)\n", TESTS, ("failed",)),
    "exit in a test": ("def answer(x):\n    sys.exit(0)\n", TESTS, ("failed",)),
    "hard exit in a test": ("def answer(x):\n    os._exit(0)\n", TESTS, ("failed",)),
    "exit as an error": ("raise SystemExit\n", TESTS, ("failed",)),
    "an error that cannot be printed": (
        "class E(BaseException):\n    def __str__(self):\n        raise self\nraise E\n",
        TESTS,
        ("failed",),
    ),
    "saying that it passed": (
        "for end in range(1, 20):\n    try:\n        os.write(end, b'passed\\nloaded\\n')\n"
        "    except OSError:\n        pass\nprint('passed')\nos._exit(0)\n",
        TESTS,
        ("failed",),
    ),
    "answering for the sandbox": (
        "os.write(4, b'loaded\\n')\ntime.sleep(0.3)\nos.set_blocking(3, False)\n"
        "try:\n    os.write(4, os.read(3, 9999))\nexcept OSError:\n    pass\nos._exit(0)\n",
        TESTS,
        ("failed",),
    ),
    "closing all files": (f"{RIGHT}os.closerange(0, 256)\n", TESTS, ("failed",)),
    "another name": (f"{RIGHT}__name__ = '__main__'\n", TESTS, ("passed",)),
    "no functions of os": (f"{RIGHT}os.write = os.read = os._exit = None\n", TESTS, ("passed",)),
    "endless recursion": ("def answer(x):\n    return answer(x)\n", TESTS, ("failed",)),
    "endless recursion without a limit": (
        "sys.setrecursionlimit(10**9)\ndef answer(x):\n    return answer(x)\n",
        TESTS,
        ("failed", "timeout"),
    ),
    "a crash": (f"{RIGHT}import ctypes\nctypes.string_at(0)\n", TESTS, ("failed",)),
    "threads that never end": (
        f"{RIGHT}import threading\n"
        "for _ in range(4):\n    threading.Thread(target=lambda: time.sleep(10**6)).start()\n",
        TESTS,
        ("passed",),
    ),
    "reading what nobody types": (f"{RIGHT}input()\n", TESTS, ("failed",)),
    "text that is none": (f"{RIGHT}x = '\ud800'\n", TESTS, ("failed",)),
    "a null": ("x = 1\0\n", TESTS, ("failed",)),
    "no code": ("", TESTS, ("failed",)),
}


SYSTEM_PYTHON = "/usr/bin/python3"


def use_way(way: Isolation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip where a machine has no such way, for no Python of its own or of the system."""
    for python in (sys.executable, SYSTEM_PYTHON):
        monkeypatch.setattr(sys, "executable", python)
        try:
            if run_programs([Program(RIGHT, TESTS)], isolation=way)[0].outcome == "passed":
                return
        except UserError:
            continue
    pytest.skip("this machine does not allow that to this user")


@pytest.fixture
def folder_of_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tmp_path.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left() -> list[str]:
    """The processes of these tests that still run."""
    found = []
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text().strip() == MARK:
                found.append(comm.parent.name)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("way", (WAYS[0], WAYS[-1]), ids=["all apart", "limits only"])
def test_each_hostile_program_ends_and_leaves_nothing(
    way: Isolation, folder_of_temporary_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_way(way, monkeypatch)
    programs = [Program(BEGINNING + code, tests) for code, tests, _ in HOSTILE.values()]
    verdicts = run_programs(programs, LIMITS, isolation=way)
    found = dict(zip(HOSTILE, verdicts, strict=True))
    wrong = {n: v for n, v in found.items() if v.outcome not in HOSTILE[n][2]}
    assert not wrong
    assert all(verdict.reason for verdict in verdicts if verdict.outcome != "passed")
    assert not left()
    assert not list(folder_of_temporary_files.iterdir())


@pytest.mark.parametrize("way", WAYS, ids=[way.files for way in WAYS])
def test_calls_that_reach_others_or_no_limit_counts_are_denied(
    way: Isolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_way(way, monkeypatch)
    code = """
import ctypes, fcntl, os, socket
libc = ctypes.CDLL(None)
F_SETOWN, F_SETSIG, F_SETOWN_EX, SHM, DUMPABLE = 8, 10, 15, 0o1600, 4
def fails(result):
    if result < 0:
        raise OSError
for call in (
    lambda: fcntl.fcntl(0, F_SETOWN, os.getppid()),
    lambda: fcntl.fcntl(0, F_SETOWN_EX, bytes(8)),
    lambda: fcntl.fcntl(0, F_SETSIG, 9),
    lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM),
    lambda: os.memfd_create('x'),
    lambda: fails(libc.shmget(0, 9, SHM)),
    lambda: fails(libc.semget(0, 1, SHM)),
    lambda: fails(libc.msgget(0, SHM)),
    lambda: fails(libc.prctl(DUMPABLE, 0, 0, 0, 0)),
    lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 19),
    lambda: os.sched_setaffinity(os.getppid(), {0}),
):
    try:
        call()
    except OSError:
        continue
    raise ValueError(call.__code__.co_firstlineno)
assert socket.socketpair() and fcntl.fcntl(0, fcntl.F_GETFL)
os.kill(0, 0)
"""
    verdicts = run_programs([Program(code, "")], isolation=way)
    assert verdicts == [ProgramVerdict("passed")]


def test_what_is_put_in_place_of_its_folder_is_left_alone(
    folder_of_temporary_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_way(WAYS[-1], monkeypatch)
    folder_of_temporary_files.chmod(0o1777)
    (other := folder_of_temporary_files / "other").mkdir()
    other.chmod(0o555)
    code = f"""
import os
for name in reversed(os.getcwd().split('/')[-2:]):
    os.chdir('..')
    try:
        os.rename(name, name + 'x')
        os.symlink({str(other)!r}, name)
        break
    except OSError:
        continue
"""
    run_programs([Program(code, "")], isolation=WAYS[-1])
    assert other.stat().st_mode & 0o777 == 0o555
    assert list(folder_of_temporary_files.iterdir()) == [other]


@pytest.mark.parametrize("way", WAYS[:2], ids=["own files", "ruled files"])
def test_files_of_others_are_neither_read_nor_written(
    way: Isolation, folder_of_temporary_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_way(way, monkeypatch)
    secret = folder_of_temporary_files / "secret"
    secret.write_text("x")
    # As where somebody has installed Python into the home folder.
    monkeypatch.setattr(sys, "prefix", str(folder_of_temporary_files))
    code = f"""
import os, glob
os.mkdir('own')
open('own/file', 'w').write('x')
assert open('own/file').read() == 'x'
open('/dev/null', 'w').write('x')
tried = [({str(secret)!r}, 'r'), ({str(secret)!r}, 'a'), ({str(secret)!r}, 'w')]
tried += [(place + '/{MARK}', 'w') for place in ('/tmp', '/var/tmp', '/dev/shm', '/home', '/usr')]
tried += [(p + '/environ', 'r') for p in glob.glob('/proc/[0-9]*') if p != f'/proc/{{os.getpid()}}']
for path, mode in tried:
    if path == '/tmp/{MARK}' and os.path.islink('/tmp'):
        continue
    try:
        open(path, mode).read()
    except OSError:
        continue
    raise ValueError(path, mode)
try:
    os.unlink({str(secret)!r})
except OSError:
    pass
"""
    assert run_programs([Program(code, "")], isolation=way) == [ProgramVerdict("passed")]
    assert secret.read_text() == "x"
