"""Counts of what a decoded sequence cost, by kind of pass and in layer-forwards."""

from __future__ import annotations

from dataclasses import dataclass, fields

from fastdllm.policy import PassKind


@dataclass(slots=True)
class PassCounts:
    """Passes of one sequence by kind, and the layers they ran or skipped.

    A layer-forward is one layer run in one pass of one sequence, whatever the number of positions.
    """

    prefill: int = 0
    full_block: int = 0
    sub_block: int = 0
    commit: int = 0
    reused: int = 0
    layer_forwards_computed: int = 0
    layer_forwards_skipped: int = 0

    @property
    def denoising(self) -> int:
        """Denoising steps: passes that committed tokens by confidence, reused ones included."""
        return self.full_block + self.sub_block + self.reused

    @property
    def forwards(self) -> int:
        """NFE: forward evaluations after the prefill; a reused pass evaluates nothing."""
        return self.full_block + self.sub_block + self.commit

    def add_pass(self, kind: PassKind, *, computed: int, skipped: int) -> None:
        """Count one pass that ran `computed` layers and answered for `skipped` others."""
        setattr(self, kind.value, getattr(self, kind.value) + 1)
        self.layer_forwards_computed += computed
        self.layer_forwards_skipped += skipped

    def __add__(self, other: PassCounts) -> PassCounts:
        return PassCounts(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )
