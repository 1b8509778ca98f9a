"""What a person is told of SLURM while it does not do what it should; each thing once."""

from __future__ import annotations

import threading
from typing import Any

from snakemake_interface_executor_plugins.logging import LoggerExecutorInterface


class Logger:
    """Snakemake's logger, without the parent's warning of jobs that ask for no memory by --mem.

    The profiles ask for it with --mem-per-gpu, in `slurm_extra`, which the parent does not read.
    """

    def __init__(self, logger: LoggerExecutorInterface) -> None:
        self._logger = logger

    def warning(self, message: str, *args: object, **options: Any) -> None:
        """Pass a warning on, unless it is that one."""
        if not message.startswith("No job memory information"):
            self._logger.warning(message, *args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logger, name)


class Telling:
    """Tells of outages and delays once, whichever thread meets them."""

    def __init__(self, logger: LoggerExecutorInterface) -> None:
        self._logger = logger
        self._lock = threading.Lock()
        self._is_out = False
        self._delays: set[str] = set()

    def outage(self, error: str, *, retry_s: float) -> None:
        """SLURM gives no answer."""
        with self._lock:
            if not self._is_out:
                self._logger.warning(
                    f"{error}; jobs go on meanwhile, trying again every {retry_s:.0f} s"
                )
            self._is_out = True

    def recovery(self) -> None:
        """SLURM has given an answer."""
        with self._lock:
            if self._is_out:
                self._logger.warning("SLURM answers again")
            self._is_out = False

    def delay(self, refusal: str, *, until: str) -> None:
        """A submission was refused and is tried again."""
        with self._lock:
            if refusal not in self._delays:
                self._logger.warning(f"{refusal} It is tried again {until}")
            self._delays.add(refusal)
