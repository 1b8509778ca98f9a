"""What of the settings differs between a stored result and a run, told key by key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# What was edited where the values, digests or a count, say nothing to people.
_EDITED = {
    "policy_digest": "policy",
    "task_digest": "task",
    "model_digest": "model",
    "decoder_version": "decoder",
}


@dataclass(frozen=True, slots=True)
class Change:
    """One setting that decides the answers and differs from the stored result's."""

    key: str
    old: Any
    new: Any

    @property
    def is_edit(self) -> bool:
        """Whether it says only what was edited, with no value to tell."""
        # Of a model from the hub the digest is the name of a revision.
        is_name = self.key == "model_digest" and not (_is_digest(self.old) and _is_digest(self.new))
        return self.key in _EDITED and not is_name

    def __str__(self) -> str:
        if self.is_edit:
            return f"{_EDITED[self.key]} changed"
        return f"{self.key} {_short(self.old)} -> {_short(self.new)}"


def what_changed(old: Any, new: Mapping[str, Any]) -> tuple[Change, ...]:
    """The settings that differ, key by key, in alphabetical order."""
    if not isinstance(old, Mapping):
        return (Change("decides", "not recorded", "recorded"),)
    keys = sorted(old.keys() | new.keys())
    changes = tuple(
        Change(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)
    )
    # Equal settings under another fingerprint: the fingerprint itself is made differently now.
    return changes or (Change("fingerprint", "made by another version", "current"),)


def _short(value: Any) -> str:
    if value is None:
        return "none"
    # The first letters are enough to tell two digests apart.
    return value[:8] if _is_digest(value) else str(value)


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and value.isalnum()
