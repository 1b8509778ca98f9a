"""Users take turns; within a user, who came first goes first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastdllm.serving.fair_queue import FairQueue


def taken(queue, fits=lambda _: True):
    return list(iter(lambda: queue.take(fits), None))


def test_one_with_many_requests_does_not_hold_up_the_others():
    queue = FairQueue()
    for user, item in ("aA", "ab", "ac", "ad", "xX", "xy", "mM"):
        queue.put(user, item)
    assert len(queue) == 7
    assert "".join(taken(queue)) == "AXMbycd"


def test_who_had_a_turn_goes_behind_those_who_wait():
    queue = FairQueue()
    queue.put("a", 1)
    queue.put("a", 2)
    queue.put("b", 3)
    assert queue.take(lambda _: True) == 1
    queue.put("c", 4)
    assert taken(queue) == [3, 2, 4]


def test_what_does_not_fit_waits_and_keeps_its_users_order():
    queue = FairQueue()
    for user, item in (("a", 10), ("a", 1), ("b", 2)):
        queue.put(user, item)
    assert taken(queue, lambda item: item < 5) == [2]
    assert taken(queue) == [10, 1]


@given(
    puts=st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=20),
    removed=st.sets(st.integers(0, 19)),
)
def test_the_place_is_how_many_are_taken_before(puts, removed):
    queue, users = FairQueue(), {}
    for item, (user, takes) in enumerate(puts):
        queue.put(user, item)
        users[item] = user
        if takes:
            del users[queue.take(lambda _: True)]
    for item in removed:
        assert queue.remove(users.get(item), item) == (item in users)
        users.pop(item, None)
    assert sorted(queue) == sorted(users)
    places = {item: queue.place(user, item) for item, user in users.items()}
    order = taken(queue)
    assert places == {item: n for n, item in enumerate(order, 1)}
    assert queue.place(0, 99) is None


@given(
    places=st.integers(2, 128),
    events=st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 70), st.integers(0, 9)), max_size=9
    ),
)
def test_nobody_takes_all_places_and_who_has_fewer_is_never_behind(places, events):
    queue = FairQueue()
    for user, wishes, takes in events:
        had_none, was_full = queue.count(user) == 0, len(queue) == places
        granted = 0
        while granted < wishes and queue.has_place(user, places):
            queue.put(user, object())
            granted += 1
        assert len(queue) <= places
        if had_none and wishes:
            assert (granted > 0) == (not was_full)
        if granted:
            assert queue.count(user) <= places - len(queue) + 1
        admitted = [queue.has_place(other, places) for other in range(5)]
        counts = [queue.count(other) for other in range(5)]
        least = min((c for c, has in zip(counts, admitted, strict=True) if not has), default=places)
        assert all(has for c, has in zip(counts, admitted, strict=True) if c < least)
        for _ in range(takes):
            queue.take(lambda _: True)


def test_alone_one_has_half_of_the_places_and_each_who_comes_half_of_the_rest():
    queue, granted = FairQueue(), []
    for user in range(9):
        while queue.has_place(user, 128):
            queue.put(user, object())
        granted.append(queue.count(user))
    assert granted == [64, 32, 16, 8, 4, 2, 1, 1, 0]
