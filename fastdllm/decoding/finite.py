"""Numbers that are none: a model whose logits are NaN or infinite answers nothing.

Every reader of logits checks them; the first pass that is not finite ends the decoding. Causes are
damaged weights, and values beyond the range of float16, for which Qwen2 is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from fastdllm.common.errors import UserError


class NotFinite(UserError):
    """Logits that are NaN or infinite. request: whose, by its index; what: which pass."""

    def __init__(self, request: int, what: str, dtype: torch.dtype) -> None:
        self.request, self.what, self.dtype = request, what, dtype
        super().__init__(f"request {request}: {self.reason}")

    @property
    def reason(self) -> str:
        """What happened, and what to try."""
        return reason_not_finite(self.what, self.dtype)


def reason_not_finite(what: str, dtype: torch.dtype) -> str:
    """Say of a pass in a dtype that its logits are NaN or infinite, and what to try."""
    name = str(dtype).removeprefix("torch.")
    advice = {
        "float16": "its range may be too small: try dtype float32, or bfloat16 if the GPU has it",
        "bfloat16": "try dtype float32; if that fails as well, the weights are damaged",
    }.get(name, "the weights are damaged, or not those of its config.json: fetch them again")
    return f"{what} gave logits in {name} that are no finite numbers; {advice}"


def first_not_finite(values: Sequence[float]) -> int | None:
    """Return the index of the first value that is NaN or infinite, None if all are finite."""
    if math.isfinite(sum(values)):
        return None
    return next((i for i, value in enumerate(values) if not math.isfinite(value)), None)
