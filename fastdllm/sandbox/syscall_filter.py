"""A filter of system calls (seccomp) that a process keeps, with all that it starts, for good.

Needs no rights and no namespaces, so it holds where a cluster has neither. What it denies fails
with EPERM: sockets, signals to others, looking into other processes, namespaces of one's own, and
memory that no limit counts.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from typing import NamedTuple

_ALLOW, _DENY = 0x7FFF0000, 0x00050000 | 1  # errno 1, EPERM
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_SET_NO_NEW_PRIVS, _SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_X32 = 0x40000000  # the bit of x86's third table of calls
_CLONE3, _NO_SUCH_CALL = 435, 0x00050000 | 38  # ENOSYS: libraries then use clone
# The same numbers everywhere, as all calls since 2019: pidfd_send_signal, io_uring_setup,
# io_uring_enter, io_uring_register, pidfd_open, pidfd_getfd.
_DENIED_EVERYWHERE = (424, 425, 426, 427, 434, 438)
# By machine, its number for the kernel; then of calls their numbers, in the same order.
_MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_DENIED = {
    "socket": (41, 198),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    # Memory that no process has, or that outlives all.
    "memfd_create": (319, 279),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    # They slow down others of this user.
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
}


class _Rule(NamedTuple):
    """A call that is allowed, or denied, if one of its arguments is, or has a bit of, a value."""

    numbers: tuple[int, int]
    argument: int
    test: int
    values: tuple[int, ...]
    if_true: int
    if_false: int


def _rules(own: int) -> list[_Rule]:
    """Return the rules of a process; own: which it is, as only itself may get its signals."""
    to_itself = (0, _EQUAL, (own, 0), _ALLOW, _DENY)
    return [
        _Rule((62, 129), *to_itself),  # kill, where 0 is its own group
        _Rule((200, 130), *to_itself),  # tkill
        _Rule((234, 131), *to_itself),  # tgkill
        _Rule((302, 261), *to_itself),  # prlimit64
        # clone with CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID or NEWNET
        _Rule((56, 220), 0, _ANY_BIT, (0x7E020000,), _DENY, _ALLOW),
        # socketpair, except of SOCK_STREAM: others can be sent to any address
        _Rule((53, 199), 1, _ANY_BIT, (0xE,), _DENY, _ALLOW),
        # fcntl with F_SETOWN, F_SETSIG or F_SETOWN_EX: a file then sends any signal to any process
        _Rule((72, 25), 1, _EQUAL, (8, 10, 15), _DENY, _ALLOW),
        # prctl with PR_SET_DUMPABLE, which can hide it from who ends it
        _Rule((157, 167), 0, _EQUAL, (4,), _DENY, _ALLOW),
    ]


def install_filter() -> bool:
    """Deny this process such calls from now on; return False where that is not possible.

    Signals to the process itself stay allowed, and so do those that a timer sends.
    """
    machine = platform.machine()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or machine not in _MACHINES:
        return False
    code = _program(machine, own=os.getpid())
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: the number of instructions, and where they are.
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    return libc.prctl(_SET_SECCOMP, _MODE_FILTER, ctypes.c_char_p(program), 0, 0) == 0


def _program(machine: str, *, own: int) -> bytes:
    """Return the instructions of the filter."""
    place = list(_MACHINES).index(machine)
    lines = [
        _line(_LOAD, _ARCHITECTURE),
        _line(_EQUAL, _MACHINES[machine], 1, 0),
        _line(_RETURN, _DENY),
        _line(_LOAD, _NUMBER),
        _line(_AT_LEAST, _X32, 0, 1),
        _line(_RETURN, _DENY),
    ]
    for number in (*(numbers[place] for numbers in _DENIED.values()), *_DENIED_EVERYWHERE):
        lines += [_line(_EQUAL, number, 0, 1), _line(_RETURN, _DENY)]
    lines += [_line(_EQUAL, _CLONE3, 0, 1), _line(_RETURN, _NO_SUCH_CALL)]
    for rule in _rules(own):
        lines += [
            _line(_EQUAL, rule.numbers[place], 0, 2 + 2 * len(rule.values)),
            _line(_LOAD, _FIRST_ARGUMENT + 8 * rule.argument),
        ]
        for value in rule.values:
            lines += [_line(rule.test, value, 0, 1), _line(_RETURN, rule.if_true)]
        lines.append(_line(_RETURN, rule.if_false))
    lines.append(_line(_RETURN, _ALLOW))
    return b"".join(lines)


def _line(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """Pack struct sock_filter; the jumps skip that many lines."""
    return struct.pack("HBBI", code, if_true, if_false, value)
