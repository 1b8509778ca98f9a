"""The blocks that token sequences share: their prefix tree, in whole blocks.

Plain arithmetic on tuples; knows no model, cache or tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

Tokens = tuple[int, ...]


@dataclass(slots=True)
class Branch:
    """A run of blocks that the same sequences have in common.

    start, stop: half-open range of blocks; empty only in a root whose sequences begin differently.
    members: indices of the sequences that have all these blocks, in the order given. children: the
    branches that follow, in the order of their first members; a member of none ends here.
    """

    start: int
    stop: int
    members: list[int]
    children: list[Branch] = field(default_factory=list)

    @property
    def ending(self) -> list[int]:
        """Members whose last whole block is the last of this branch."""
        continuing = {member for child in self.children for member in child.members}
        return [member for member in self.members if member not in continuing]


def grow(sequences: Sequence[Tokens], block_size: int) -> Branch:
    """Return the root of the prefix tree of `sequences`, split into blocks of `block_size` tokens.

    Tokens after the last whole block of a sequence do not count. Does not recurse.
    """
    root = Branch(0, 0, list(range(len(sequences))))
    pending = [root]
    while pending:
        branch = pending.pop()
        groups = _by_next_block(sequences, branch, block_size)
        while groups and len(groups[0]) == len(branch.members):
            branch.stop += 1
            groups = _by_next_block(sequences, branch, block_size)
        branch.children = [Branch(branch.stop, branch.stop, group) for group in groups]
        pending += branch.children
    return root


def shared_blocks(left: Tokens, right: Tokens, block_size: int) -> int:
    """Return how many whole blocks two sequences have in common at their beginning."""
    count = 0
    for first in range(0, min(len(left), len(right)) - block_size + 1, block_size):
        if left[first : first + block_size] != right[first : first + block_size]:
            break
        count += 1
    return count


def _by_next_block(sequences: Sequence[Tokens], branch: Branch, block_size: int) -> list[list[int]]:
    """Group the members that have a block after `branch.stop` by that block."""
    first = branch.stop * block_size
    groups: dict[Tokens, list[int]] = {}
    for member in branch.members:
        block = sequences[member][first : first + block_size]
        if len(block) == block_size:
            groups.setdefault(block, []).append(member)
    return list(groups.values())
