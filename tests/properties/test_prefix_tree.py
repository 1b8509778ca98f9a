"""The prefix tree holds every distinct block once, and the way to every sequence."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fastdllm.decoding.prefix_tree import Branch, grow, shared_blocks

BLOCK = 2
# Two tokens and blocks of two: many sequences share blocks, end inside others, or are equal.
sequences = st.lists(st.lists(st.integers(0, 1), max_size=9).map(tuple), max_size=12)


def branches(root: Branch) -> list[tuple[Branch, Branch | None]]:
    """Every branch with the one that it goes on from, parents first."""
    pairs: list[tuple[Branch, Branch | None]] = [(root, None)]
    for branch, _ in pairs:
        pairs += [(child, branch) for child in branch.children]
    return pairs


@given(sequences)
def test_each_distinct_block_is_in_one_branch(given_sequences):
    paths = {
        tokens[:end] for tokens in given_sequences for end in range(BLOCK, len(tokens) + 1, BLOCK)
    }
    tree = branches(grow(given_sequences, BLOCK))
    assert sum(branch.stop - branch.start for branch, _ in tree) == len(paths)


@given(sequences)
def test_members_are_exactly_the_sequences_with_all_blocks_of_the_branch(given_sequences):
    for branch, parent in branches(grow(given_sequences, BLOCK)):
        if not branch.members:
            continue
        whole = given_sequences[branch.members[0]][: branch.stop * BLOCK]
        assert len(whole) == branch.stop * BLOCK
        assert branch.members == [
            index
            for index, tokens in enumerate(given_sequences)
            if tokens[: branch.stop * BLOCK] == whole
        ]
        if parent is not None:
            assert branch.start == parent.stop < branch.stop


@given(sequences)
def test_sequences_end_where_their_whole_blocks_do(given_sequences):
    ends = {
        member: branch.stop
        for branch, _ in branches(grow(given_sequences, BLOCK))
        for member in branch.ending
    }
    assert ends == {i: len(tokens) // BLOCK for i, tokens in enumerate(given_sequences)}


@given(sequences)
def test_branches_are_as_long_as_they_can_be_and_in_the_order_of_their_members(given_sequences):
    for branch, _ in branches(grow(given_sequences, BLOCK)):
        assert len(branch.children) != 1 or branch.ending
        assert all(a.members[0] < b.members[0] for a, b in pairwise(branch.children))


def test_ten_thousand_nested_sequences_need_no_recursion():
    tree = branches(grow([(0,) * length for length in (1, 10_000)], 1))
    assert [(branch.start, branch.stop) for branch, _ in tree] == [(0, 1), (1, 10_000)]
    nested = branches(grow([(0,) * length for length in range(2_000)], 1))
    assert len(nested) == 2_000


@given(*[st.lists(st.integers(0, 1), max_size=9).map(tuple)] * 2, st.integers(1, 4))
def test_shared_blocks_are_the_longest_common_beginning(one, other, size):
    count = shared_blocks(one, other, size)
    assert one[: count * size] == other[: count * size]
    longer = (count + 1) * size
    assert longer > min(len(one), len(other)) or one[:longer] != other[:longer]
