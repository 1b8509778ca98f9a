"""The process that runs one program in the sandbox, watches it, and leaves nothing of it behind.

Started by programs.py with a job as JSON on its input; answers with one JSON object. It stays
outside of the namespaces that it makes, and no program can reach it.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import resource
import secrets
import select
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastdllm.sandbox.file_rules import restrict_files
from fastdllm.sandbox.folder import bytes_in, bytes_without_name, make_folder, remove_folder
from fastdllm.sandbox.namespaces import enter_own_root, leave_namespaces
from fastdllm.sandbox.process_tree import descendants, end_all, stat_fields, tasks_of, waiting_s
from fastdllm.sandbox.syscall_filter import install_filter

# How long Python may take to start, on a slow file system.
START_S = 120
# How often the processes of a program are looked at, and the least share of time spent with it.
LOOK_S, LOOK_SHARE = 0.1, 0.1
# The most that one turn of waiting counts, where this process or the machine was stopped.
TURN_S = 1.0
# How often the time on the clock a program may take that only waits for a processor.
MOST_WAITING = 10
# Where a program's user has other processes, how many more of them may start meanwhile.
SPARE_TASKS = 256
MOST_OUTPUT = 4096
STACK_BYTES = 8 << 20
_SET_DEATH_SIGNAL, _SET_DUMPABLE, _SET_SUBREAPER, _DROP_CAPABILITY = 1, 4, 36, 24
# In a container that has no others: nobody.
_NOBODY = 65534
_TICKS_PER_S, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")

libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Run the job on standard input, and print what came of it."""
    job = json.loads(sys.stdin.buffer.read())
    # What ends this process early, as the end of the one that waits for it, ends the program too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    libc.prctl(_SET_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)
    libc.prctl(_SET_SUBREAPER, 1, 0, 0, 0)
    if os.getppid() != job["parent"]:
        sys.exit(1)
    place = Path(f"{job['tmp']}/fastdllm-sandbox-{secrets.token_hex(8)}")
    try:
        record = _Watch(job, make_folder(place), _another_user()).run()
    except OSError as error:
        record = {"setup": str(error)}
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        end_all()
        remove_folder(place)
    sys.stdout.write(json.dumps(record))


@dataclass
class _Watch:
    """One program, from its start to its end.

    job: code, tests and source (texts), argv, env, readable and devices (folders and files),
        limits, and files ("own", "ruled" or "all").
    folder: an empty one.
    user: whom root lets it run as.
    loaded, passed: the words that the program gets, to say that code or tests have ended.
    life, from_program, to_program: ends of pipes; the first tells how the program ended.
    """

    job: dict[str, Any]
    folder: Path
    user: int | None
    life: int = -1
    from_program: int = -1
    to_program: int = -1
    loaded: str = field(default_factory=secrets.token_hex)
    passed: str = field(default_factory=secrets.token_hex)
    output: bytes = b""
    to_send: bytes = b""
    how_it_ended: str = ""
    waited_s: float = 0.0
    is_started: bool = False
    were_tests_sent: bool = False

    def run(self) -> dict[str, Any]:
        """Return outcome and reason, and what there was of isolation.

        Raises:
            OSError: it cannot be set up in this way here.
        """
        if self.user is not None:
            os.chown(self.folder, self.user, self.user)
        if self.job["files"] == "own":
            leave_namespaces()
        libc.prctl(_SET_DUMPABLE, 0, 0, 0, 0)
        # Counted here, as a namespace hides the others.
        tasks = tasks_of(os.geteuid() if self.user is None else self.user)
        is_shared = self.job["files"] != "own" and self.user in (None, _NOBODY)
        most = tasks + self.job["limits"]["processes"] + is_shared * SPARE_TASKS
        self.job["limits"]["tasks_of_user"] = most
        inner = self._start()
        self.to_send = _framed(self.loaded) + _framed(self.job["code"])
        outcome, reason = self._until_decided()
        os.kill(inner, signal.SIGKILL)
        os.waitpid(inner, 0)
        return {
            "outcome": outcome,
            "reason": reason,
            "is_filtered": "filtered" in self.how_it_ended,
            "is_other_user": self.user is not None,
        }

    def _start(self) -> int:
        """Start the first process of the program's namespaces; return which it is."""
        self.life, life_end = os.pipe()
        program_in, self.to_program = os.pipe()
        self.from_program, program_out = os.pipe()
        os.set_blocking(self.to_program, False)
        # A child that were told to exit before it is one of its own would clean up as this one.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        inner = os.fork()
        if not inner:
            os.close(self.life)
            _inner(self.job, self.folder, (program_in, program_out), life_end, self.user)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        for end in (life_end, program_in, program_out):
            os.close(end)
        return inner

    def _until_decided(self) -> tuple[str, str]:
        ends = {self.life, self.from_program}
        clock_s, last_s = 0.0, time.monotonic()
        look_s = last_s
        while True:
            writable = [self.to_program] if self.to_send else []
            ready, can_write, _ = select.select(ends, writable, [], LOOK_S)
            if can_write:
                self._send()
            ends -= {end for end in ready if not self._receive(end)}
            decided = self._by_output()
            # Once the program has ended, what is still to be read is in the pipe.
            if decided is None and self.life not in ends and not select.select(ends, [], [], 0)[0]:
                decided = self._by_end()
            now_s = time.monotonic()
            if decided is None and now_s >= look_s:
                decided = self._by_limits()
                look_s = now_s + max(LOOK_S, (time.monotonic() - now_s) / LOOK_SHARE)
            clock_s, last_s = clock_s + min(now_s - last_s, TURN_S), now_s
            if not self.is_started and b"started\n" in self.output:
                self.is_started, clock_s = True, 0.0
            decided = decided or self._by_clock(clock_s)
            if decided is not None:
                return decided

    def _send(self) -> None:
        try:
            self.to_send = self.to_send[os.write(self.to_program, self.to_send) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self.to_send = b""

    def _receive(self, end: int) -> bool:
        """Read from a pipe; return whether there may be more."""
        data = os.read(end, 65536)
        if end == self.from_program:
            self.output += data
        else:
            self.how_it_ended += data.decode()
            _, failed, reason = self.how_it_ended.partition("setup: ")
            if failed:
                raise OSError(reason.splitlines()[0])
        return bool(data)

    def _by_output(self) -> tuple[str, str] | None:
        """Decide by what the program has said, of which only the words are proof."""
        if len(self.output) > MOST_OUTPUT:
            return "failed", "wrote where only the sandbox writes"
        for line in self.output.splitlines():
            if line == self.passed.encode() and self.were_tests_sent:
                return "passed", ""
            if line.startswith(b"failed "):
                return "failed", line.removeprefix(b"failed ").decode("utf-8", "replace")
            if line == self.loaded.encode() and not self.were_tests_sent:
                self.were_tests_sent = True
                self.to_send += _framed(self.passed) + _framed(self.job["tests"])
        return None

    def _by_end(self) -> tuple[str, str]:
        """Decide by how the program ended without having said so."""
        _, is_known, end = self.how_it_ended.partition("ended ")
        if not is_known:
            return "failed", "was ended from outside, as where memory runs out"
        status, cpu_s = end.split()
        code = os.waitstatus_to_exitcode(int(status))
        # The kernel counts by ticks for its limit, and exactly for what it reports.
        is_killed = code == -signal.SIGKILL and float(cpu_s) > 0.7 * self.job["limits"]["cpu_s"]
        if code == -signal.SIGXCPU or is_killed:
            return "timeout", f"used {self.job['limits']['cpu_s']} s of processor time"
        if code < 0:
            named = {one.value: one.name for one in signal.Signals}
            return "failed", f"ended by {named.get(-code, f'signal {-code}')}"
        return "failed", f"ended before its tests did, with exit code {code}"

    def _by_clock(self, clock_s: float) -> tuple[str, str] | None:
        """Decide by the time on the clock, less what was spent waiting on a busy machine.

        Raises:
            OSError: Python takes too long to start, which says nothing of the program.
        """
        if not self.is_started:
            if clock_s > START_S:
                raise OSError(f"Python did not start within {START_S} s")
            return None
        most_s = self.job["limits"]["wall_s"]
        if clock_s - self.waited_s > most_s or clock_s > MOST_WAITING * most_s:
            return "timeout", f"did not end within {most_s} s"
        return None

    def _by_limits(self) -> tuple[str, str] | None:
        """Decide by what all processes of the program use together."""
        cpu_s, memory, tasks, limits = 0.0, 0, 0, self.job["limits"]
        for pid in (pids := descendants(os.getpid())):
            self.waited_s = max(self.waited_s, waiting_s(pid))
            with suppress(OSError, ValueError, IndexError):
                fields = stat_fields(pid)
                cpu_s += sum(map(int, fields[11:15])) / _TICKS_PER_S
                tasks += int(fields[17])
                memory += int(fields[21]) * _PAGE
        if cpu_s > limits["cpu_s"] + 1:
            return "timeout", f"used {limits['cpu_s']} s of processor time"
        if memory > limits["memory_bytes"]:
            return "failed", "its processes together used too much memory"
        if tasks > limits["processes"] + 1:  # the one that waits for it
            return "failed", f"started more than {limits['processes']} processes and threads"
        if self.job["files"] == "own":
            return None
        try:
            written = bytes_in(self.folder) + sum(map(bytes_without_name, pids))
        except OSError:
            return "failed", "made folders that cannot be looked into"
        return ("failed", "wrote too much") if written > limits["folder_bytes"] else None


def _inner(
    job: dict[str, Any], folder: Path, ends: tuple[int, int], life: int, user: int | None
) -> None:
    """Be the first process of the namespace: start the program, wait for it, say how it ended."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    libc.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    try:
        if job["files"] == "own":
            shown, room = [*job["readable"], *job["devices"]], job["limits"]["folder_bytes"]
            folder = enter_own_root(folder, shown, room_bytes=room)
        program = os.fork()
        if not program:
            _become_program(job, ends, life, folder, user)
        for end in ends:
            os.close(end)
        while True:
            ended, status, usage = os.wait4(-1, 0)
            if ended == program:
                os.write(life, f"ended {status} {usage.ru_utime + usage.ru_stime}\n".encode())
                os._exit(0)
    except BaseException as error:
        os.write(life, f"setup: {error}\n".encode())
    os._exit(1)


def _become_program(
    job: dict[str, Any], ends: tuple[int, int], life: int, folder: Path, user: int | None
) -> None:
    try:
        os.setsid()
        os.chdir(folder)
        # Far from 3 and 4 first, so that none overwrites another.
        *high, life = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 16) for end in (*ends, life))
        silent = os.open("/dev/null", os.O_RDWR)
        for target, source in enumerate((silent, silent, silent, high[0], high[1])):
            os.dup2(source, target)
        os.closerange(5, life)
        _limit(job["limits"])
        if user is None:
            _drop_rights()
        else:
            with suppress(PermissionError):  # a container may forbid it, and has none to leave
                os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        # Not before, since another user would lose it.
        libc.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        if job["files"] == "ruled":
            restrict_files([*job["readable"], "/proc"], [*job["devices"], "."])
        if install_filter():
            os.write(life, b"filtered ")
        home = {"HOME": str(folder), "TMPDIR": str(folder)}
        os.execve(job["argv"][0], [*job["argv"], job["source"]], {**job["env"], **home})
    except BaseException as error:
        os.write(life, f"setup: {error}\n".encode())
    os._exit(1)


def _limit(limits: dict[str, Any]) -> None:
    """Limit this process and what it starts."""
    for name, most in (
        ("CPU", limits["cpu_s"]),
        ("AS", limits["memory_bytes"]),
        ("FSIZE", limits["file_bytes"]),
        ("NOFILE", limits["open_files"]),
        ("NPROC", limits["tasks_of_user"]),
        ("CORE", 0),
        ("MEMLOCK", 0),
        ("MSGQUEUE", 0),
        ("RTPRIO", 0),
        # The same depth of recursion whatever this user has.
        ("STACK", STACK_BYTES),
    ):
        kind = getattr(resource, f"RLIMIT_{name}")
        _, allowed = resource.getrlimit(kind)
        # What ignores the signal of the first limit of processor time ends at the second.
        pair = (most, most + 1 if name == "CPU" else most)
        known = allowed if allowed != resource.RLIM_INFINITY else max(pair)
        resource.setrlimit(kind, (min(pair[0], known), min(pair[1], known)))


def _drop_rights() -> None:
    """Let what is executed next have no rights of root, even as root."""
    capability = 0
    while libc.prctl(_DROP_CAPABILITY, capability, 0, 0, 0) == 0:
        capability += 1


def _another_user() -> int | None:
    """Return a user that root changes to, else None.

    No one else is this user, since limits on the number of processes count all those of a user; and
    there are none for root, unless it is the only user of a container that a plain user has made.
    """
    if os.geteuid() != 0:
        return None
    ranges = [list(map(int, line.split())) for line in _lines("/proc/self/uid_map")]
    own = 2**30 + os.getpid()
    for user in (own, _NOBODY):
        if any(start <= user < start + length for start, _, length in ranges):
            return user
    return None


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="ascii").splitlines()


def _framed(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return b"%016x" % len(data) + data
