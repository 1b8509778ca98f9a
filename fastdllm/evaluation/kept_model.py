"""The model of a process: loaded once for all runs in a row that need the same.

A run that finds it loaded starts from a clean state all the same: nothing that an earlier run left
behind, caches or recorded shapes, may change its answers, its memory or its speed.
"""

from __future__ import annotations

import gc
import time

import torch

from fastdllm.engine.engines import drop_idle
from fastdllm.machine.process import reset_process_peak_memory
from fastdllm.model.fused import FusedModel
from fastdllm.model.loading import load_model

# Path, revision, dtype and device, as asked for.
Key = tuple[str, str | None, str, str]


class KeptModel:
    """Holds one model at a time."""

    def __init__(self) -> None:
        self._key: Key | None = None
        self._model: FusedModel | None = None

    def get(
        self, path: str, *, revision: str | None, dtype: str, device: str
    ) -> tuple[FusedModel, float | None]:
        """The model, and the seconds that loading it took; None where it was there already.

        Raises:
            UserError: it cannot be loaded.
        """
        key = (path, revision, dtype, device)
        if self._model is not None and key == self._key:
            drop_idle(self._model)
            _reset_peak_memory(self._model.device)
            return self._model, None
        self.drop()
        started = time.perf_counter()
        self._model = load_model(path, device=device, dtype=dtype, revision=revision)
        self._key = key
        # The peak of a run before it, and that of loading, are not of its decoding.
        _reset_peak_memory(self._model.device)
        return self._model, round(time.perf_counter() - started, 3)

    def drop(self) -> None:
        """Let go of the model, so that its memory is free."""
        self._key = self._model = None
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def _reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        reset_process_peak_memory()
