"""The order in which log-likelihood contexts are answered: what begins alike stands side by side.

Scoring computes a shared prefix once per chunk (likelihood.py), so contexts that share one belong
into one chunk. Plain arithmetic on token ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastdllm.decoding.prefix_tree import Branch, Tokens, grow

# Published models share whole blocks of 32 tokens. A plan serves any model; with other blocks it
# is just as valid and shares nearly as much.
SHARED_BLOCK = 32


def context_chunks(options: Mapping[Tokens, Sequence[int]], chunk_size: int) -> list[list[int]]:
    """Cut the options of contexts into chunks of at most `chunk_size`.

    Options of one context stay together, even when they are more. Contexts with a common prefix
    stand side by side, the longest first within each group and among groups. A group that does not
    fit what is left of a chunk begins a new one, unless its members have less in common with each
    other than with what stands before them: then tearing it costs less.

    Args:
        options: per context its requests, as numbers.
    """
    contexts = list(options)
    counts = [len(options[context]) for context in contexts]
    chunks: list[list[int]] = [[]]
    pending = [grow(contexts, SHARED_BLOCK)]
    while pending:
        branch = pending.pop()
        taken = len(chunks[-1])
        fits = taken + sum(counts[member] for member in branch.members) <= chunk_size
        alone = len(branch.members) == 1
        if taken and not fits and (alone or branch.stop - branch.start >= branch.start):
            chunks.append([])
        if alone:
            chunks[-1] += options[contexts[branch.members[0]]]
            continue
        ending = [Branch(branch.stop, branch.stop, [member]) for member in branch.ending]
        parts = [*branch.children, *ending]
        # The stack gives the last first.
        parts.sort(key=lambda part: part.members[0], reverse=True)
        parts.sort(key=lambda part: max(len(contexts[member]) for member in part.members))
        pending += parts
    return chunks if chunks[0] else []
