"""Addresses at which the page of `fastdllm web` opens answers of runs; the report links to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

# Where the page is unless it is told otherwise.
PAGE_PORT = 10086


@dataclass(frozen=True, slots=True)
class LinkedAnswers:
    """The answers of one or two runs (`experiment/task/config`) to an item, counted from 0.

    item: -1 where the address names none that can be.
    """

    run: str
    other: str = ""
    item: int = 0

    def link(self) -> str:
        """Return the address, on the machine that the page runs on."""
        query = urlencode({"run": self.run, "other": self.other, "item": self.item}, safe="/")
        return f"http://127.0.0.1:{PAGE_PORT}/?{query}"


def linked_answers(query: Mapping[str, str]) -> LinkedAnswers | None:
    """Return what the parameters of an address ask for; None if it is no such link."""
    if "run" not in query:
        return None
    number = query.get("item", "0")
    return LinkedAnswers(
        run=query["run"],
        other=query.get("other", ""),
        item=int(number) if number.isascii() and number.isdecimal() and len(number) < 10 else -1,
    )
