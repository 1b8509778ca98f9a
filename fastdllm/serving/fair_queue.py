"""Who is next among those who wait: users in turn, each user's requests in order of arrival."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """Items of users. A user whose item was taken goes behind the others who wait."""

    def __init__(self) -> None:
        self._users: OrderedDict[Hashable, deque[Item]] = OrderedDict()

    def __len__(self) -> int:
        """Number of items."""
        return sum(map(len, self._users.values()))

    def count(self, user: Hashable) -> int:
        """Return the number of a user's items."""
        return len(self._users.get(user, ()))

    def has_place(self, user: Hashable, places: int) -> bool:
        """Return whether a user has fewer items than there are places left.

        Nobody can take all of them: a user alone gets half of the places, two get a third each, and
        who comes next finds one.

        Source: Choudhury and Hahne, Dynamic queue length thresholds, IEEE/ACM ToN 6 (1998), with
        alpha 1.
        """
        return self.count(user) < places - len(self)

    def put(self, user: Hashable, item: Item) -> None:
        """Let an item wait behind the others of its user."""
        self._users.setdefault(user, deque()).append(item)

    def take(self, fits: Callable[[Item], bool]) -> Item | None:
        """Return the oldest item of the first user in turn whose oldest item fits."""
        for user, items in self._users.items():
            if fits(items[0]):
                item = items.popleft()
                self._users.move_to_end(user)
                if not items:
                    del self._users[user]
                return item
        return None

    def remove(self, user: Hashable, item: Item) -> bool:
        """Take an item out of the queue; False if it is not in it."""
        items = self._users.get(user, deque())
        if item not in items:
            return False
        items.remove(item)
        if not items:
            del self._users[user]
        return True

    def place(self, user: Hashable, item: Item) -> int | None:
        """Return the place of an item, 1 for the next one; None if it does not wait.

        As if every item fitted: in each turn one item of each user goes.
        """
        depth = next((n for n, other in enumerate(self._users.get(user, ())) if other is item), -1)
        if depth < 0:
            return None
        users = list(self._users)
        turns = ((n, len(self._users[other])) for n, other in enumerate(users))
        own = users.index(user)
        return 1 + sum(min(count, depth + (n < own)) for n, count in turns)

    def __iter__(self) -> Iterator[Item]:
        """All items, user by user."""
        for items in self._users.values():
            yield from items
