"""The record of a finished run: summary.json, the files beside it, the bits of its items.

Knows no model and no SLURM; imports no torch. `results()` is the table of all runs (frames.py).
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    """This package, which `from fastdllm import results` gives: called, it returns the table."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        from fastdllm.results.frames import results

        return results(*args, **options)


sys.modules[__name__].__class__ = _Package
