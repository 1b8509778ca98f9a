"""A trace, or two side by side, as a file for people: a page to step through, or a picture.

Only pictures need Pillow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastdllm.common.errors import UserError
from fastdllm.traces.trace_page import compare_page, trace_page

if TYPE_CHECKING:
    from fastdllm.traces.record import Trace

ENDINGS = (".html", ".png", ".gif")


def exported(
    traces: Sequence[Trace],
    ending: str,
    *,
    step: int | None = None,
    colour: str = "step",
    theme: str = "light",
) -> bytes:
    """Return the content of a file whose name ends in one of `ENDINGS`.

    Args:
        traces: one, or two to show side by side.
        step: of a .png: after this step, 0 before the first; default: the last.
        colour: of a picture: what the colour of a token says, its `step` or its `confidence`.
        theme: of a picture: `light` or `dark`.

    Raises:
        UserError: a picture is asked for, and Pillow is not installed.
    """
    if ending == ".html":
        page = trace_page(*traces) if len(traces) == 1 else compare_page(*traces)
        return page.encode()
    try:
        from fastdllm.traces import pictures
    except ModuleNotFoundError as error:
        if error.name != "PIL":
            raise
        raise UserError("pictures need Pillow; type: pip install pillow") from None
    if ending == ".png":
        return pictures.png(traces, step=step, colour=colour, theme=theme)
    return pictures.gif(traces, colour=colour, theme=theme)
