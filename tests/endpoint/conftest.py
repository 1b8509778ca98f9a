"""One server for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.endpoint.running import Running, running


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """A server without a key."""
    with running() as one:
        yield one
        figures = one.service.figures()
        assert (figures.decoding, figures.waiting, figures.failed) == (0, 0, 0)
