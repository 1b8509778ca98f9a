"""The C library's allocator: freed memory goes back to the system."""

from __future__ import annotations

import ctypes


def return_freed_memory() -> bool:
    """Give freed pages back to the system; False where the C library cannot (only glibc can).

    Packing weights frees each plain copy, but glibc keeps blocks of up to 32 MiB for later.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return False
    return bool(trim(0))
