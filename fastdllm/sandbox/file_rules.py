"""Rules of files (Landlock) that a process keeps, with all that it starts, for good.

For where a process can have no files of its own (namespaces.py): no rights are needed, only a Linux
of 2021 or later. What no rule allows fails with EACCES, and so does looking into processes outside.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

# The same numbers on all machines: landlock_create_ruleset, _add_rule, _restrict_self.
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_ASK_VERSION, _BELOW_PATH = 1, 1
_SET_NO_NEW_PRIVS = 38
# Bits of what may be done: the first 13, and one more in each of these versions.
_ALL_OF_FIRST = (1 << 13) - 1
_ADDED = {2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_EXECUTE, _WRITE, _READ, _LIST, _TRUNCATE, _CONTROL = 1, 2, 4, 8, 1 << 14, 1 << 15
_OF_A_FILE = _EXECUTE | _WRITE | _READ | _TRUNCATE | _CONTROL


def restrict_files(readable: Iterable[str], writable: Iterable[str]) -> None:
    """Let this process only read (and run) some files and folders, and do all in others.

    Raises:
        OSError: this Linux has no such rules.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def call(number: int, *arguments: object) -> int:
        result = libc.syscall(number, *arguments)
        if result < 0:
            error = ctypes.get_errno()
            raise OSError(error, f"landlock: {os.strerror(error)}")
        return int(result)

    version = call(_CREATE, None, ctypes.c_size_t(0), _ASK_VERSION)
    handled = _ALL_OF_FIRST | sum(bit for since, bit in _ADDED.items() if since <= version)
    # struct landlock_ruleset_attr, as long as its first version.
    rules = call(_CREATE, struct.pack("Q", handled), ctypes.c_size_t(8), 0)
    allowed = [(path, _EXECUTE | _READ | _LIST) for path in readable]
    for path, access in (*allowed, *((path, handled) for path in writable)):
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except (FileNotFoundError, PermissionError):
            continue
        known = handled if stat.S_ISDIR(os.fstat(place).st_mode) else handled & _OF_A_FILE
        # struct landlock_path_beneath_attr, packed.
        call(_ADD, rules, _BELOW_PATH, struct.pack("=Qi", access & known, place), 0)
        os.close(place)
    if libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl: no new rights")
    call(_RESTRICT, rules, 0)
    os.close(rules)
