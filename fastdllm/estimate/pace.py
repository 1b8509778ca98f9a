"""How fast one run was: the record that all measurements come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from fastdllm.estimate.hardware import Hardware
from fastdllm.workflow.project.digests import digest_of


class Kind(Enum):
    """What a measurement was."""

    RUN = "run"
    CHUNKS = "chunks"
    PROBE = "probe"


@dataclass(frozen=True, slots=True)
class Pace:
    """What one measurement tells: how long `items` requests took, and the start of the process.

    model: name and digest. dtypes: the number format that was asked for, and what it came to.
    settings: digest of all that decides the answers but the limit.
    startup_s: loading, warm-up and recording of shapes; None where another run of the same job had
    loaded the model. outside_s: what the job took besides (imports, scoring), where the
    workflow has measured it.
    """

    kind: Kind
    experiment: str
    task: str
    config: str
    limit: int | None
    hardware: Hardware
    model: tuple[str, str]
    dtypes: frozenset[str]
    settings: str
    computation: str | None
    batch_size: int
    items: int
    seconds: float
    startup_s: float | None
    time: str
    outside_s: float | None = None

    @property
    def seconds_per_item(self) -> float:
        return self.seconds / self.items


def settings_digest(decides: Mapping[str, Any]) -> str:
    """What runs share that differ in their limit only."""
    return digest_of({key: value for key, value in decides.items() if key != "limit"})
