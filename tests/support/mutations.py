"""Random damage to small files: a key deleted, a value of another type, bytes cut off."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

OTHER_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.floats(),
    st.text(max_size=4),
    st.builds(list),
    st.builds(dict),
    st.builds(lambda: [[{}]]),
)


@st.composite
def mutated_json(draw: st.DrawFn, original: bytes) -> tuple[bytes, set[str]]:
    """Draw a damaged copy of a JSON object, and the keys at its top that are damaged.

    A file whose bytes were cut is no JSON any more, which damages none of them.
    """
    if draw(st.integers(0, 4)) == 0:
        return original[: draw(st.integers(0, len(original) - 2))], set()
    values = json.loads(original)
    damaged: set[str] = set()
    for _ in range(draw(st.integers(1, 2))):
        top = draw(st.sampled_from(sorted(values)))
        damaged |= {top}
        _damage(draw, values, top)
        if not values:
            break
    return json.dumps(values).encode(), damaged


def _damage(draw: st.DrawFn, holder: Any, key: Any) -> None:
    """Damage a value, or one within it."""
    value = holder[key]
    keys = (
        sorted(value)
        if isinstance(value, dict)
        else range(min(len(value), 8))
        if isinstance(value, list)
        else ()
    )
    kind = draw(st.integers(0, 3))
    if len(keys) and kind < 2:
        _damage(draw, value, draw(st.sampled_from(list(keys))))
    elif kind == 2:
        del holder[key]
    else:
        holder[key] = draw(OTHER_VALUES)
