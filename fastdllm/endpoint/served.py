"""What is served: one model under one name, shared by the endpoint and the web page."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdllm.settings import DecodingSettings

if TYPE_CHECKING:
    from fastdllm.model.fused import FusedModel
    from fastdllm.serving.service import Service

TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Served:
    """A model that answers, and how.

    name: what clients call it. revision: branch, tag or commit of a hub id, if named. settings: of
    requests that ask for nothing else. timeout_s: the longest that a request may take, waiting
    included. created: seconds since 1970.
    """

    name: str
    model: FusedModel
    tokenizer: Any
    service: Service
    settings: DecodingSettings = field(default_factory=DecodingSettings)
    timeout_s: float = TIMEOUT_S
    revision: str | None = None
    created: int = field(default_factory=lambda: int(time.time()))


def name_of(model: str) -> str:
    """Return what clients call a model: its hub id, or the name of its folder."""
    path = Path(model)
    return path.resolve().name if path.exists() else model
