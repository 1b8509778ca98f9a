"""A filter of system calls (seccomp) that a process keeps, with all that it starts, for good.

Needs no rights and no namespaces, so it holds where a cluster has neither. What it denies fails
with EPERM: sockets, signals to others, looking into other processes, and namespaces of one's own.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

_ALLOW, _DENY = 0x7FFF0000, 0x00050000 | 1  # errno 1, EPERM
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_SET_NO_NEW_PRIVS, _SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_X32 = 0x40000000  # the bit of x86's third table of calls

# Of clone: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
_NEW_NAMESPACES = 0x7E020000
# The same numbers everywhere, as all calls since 2019: pidfd_send_signal, io_uring_setup,
# io_uring_enter, io_uring_register, pidfd_open, pidfd_getfd.
_DENIED_EVERYWHERE = (424, 425, 426, 427, 434, 438)
_CLONE3, _NO_SUCH_CALL = 435, 0x00050000 | 38  # ENOSYS: libraries then use clone
# By machine: its number for the kernel, then those of socket, ptrace, process_vm_readv,
# process_vm_writev, unshare, setns, mount, bpf, perf_event_open, keyctl, add_key, request_key,
# rt_sigqueueinfo and rt_tgsigqueueinfo.
_MACHINES = {
    "x86_64": (
        0xC000003E,
        (41, 101, 310, 311, 272, 308, 165, 321, 298, 250, 248, 249, 129, 297),
        {"kill": 62, "tkill": 200, "tgkill": 234, "prlimit64": 302, "clone": 56},
    ),
    "aarch64": (
        0xC00000B7,
        (198, 117, 270, 271, 97, 268, 40, 280, 241, 219, 217, 218, 138, 240),
        {"kill": 129, "tkill": 130, "tgkill": 131, "prlimit64": 261, "clone": 220},
    ),
}


def install_filter() -> bool:
    """Deny this process such calls from now on; return False where that is not possible.

    Signals to the process itself stay allowed, and so do those that a timer sends.
    """
    known = _MACHINES.get(platform.machine())
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or known is None:
        return False
    code = _program(*known, own=os.getpid())
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: the number of instructions, and where they are.
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    return libc.prctl(_SET_SECCOMP, _MODE_FILTER, ctypes.c_char_p(program), 0, 0) == 0


def _program(
    architecture: int, denied: tuple[int, ...], numbers: dict[str, int], *, own: int
) -> bytes:
    """Return the instructions of the filter; own: the process that may get signals."""
    lines = [
        _line(_LOAD, _ARCHITECTURE),
        _line(_EQUAL, architecture, 1, 0),
        _line(_RETURN, _DENY),
        _line(_LOAD, _NUMBER),
        _line(_AT_LEAST, _X32, 0, 1),
        _line(_RETURN, _DENY),
    ]
    for number in (*denied, *_DENIED_EVERYWHERE):
        lines += [_line(_EQUAL, number, 0, 1), _line(_RETURN, _DENY)]
    lines += [_line(_EQUAL, _CLONE3, 0, 1), _line(_RETURN, _NO_SUCH_CALL)]
    lines += [
        _line(_EQUAL, numbers["clone"], 0, 4),
        _line(_LOAD, _FIRST_ARGUMENT),
        _line(_ANY_BIT, _NEW_NAMESPACES, 0, 1),
        _line(_RETURN, _DENY),
        _line(_RETURN, _ALLOW),
    ]
    for name, allowed in (
        ("kill", (own,)),
        ("tkill", (own,)),
        ("tgkill", (own,)),
        ("prlimit64", (own, 0)),
    ):
        lines += [
            _line(_EQUAL, numbers[name], 0, 2 + 2 * len(allowed)),
            _line(_LOAD, _FIRST_ARGUMENT),
            *(
                line
                for process in allowed
                for line in (_line(_EQUAL, process, 0, 1), _line(_RETURN, _ALLOW))
            ),
            _line(_RETURN, _DENY),
        ]
    lines.append(_line(_RETURN, _ALLOW))
    return b"".join(lines)


def _line(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """Pack struct sock_filter; the jumps skip that many lines."""
    return struct.pack("HBBI", code, if_true, if_false, value)
