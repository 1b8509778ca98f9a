"""The page on a thread: the real one, with a model of the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from fastdllm.commands.web import _add_page, _set_up_gradio
from fastdllm.common.files import temporary_folder
from tests.endpoint.running import Running, running


@contextmanager
def running_page(*, slots: int = 8) -> Iterator[Running]:
    """Serve the page, until the end of the block; then nothing of it is still at work."""
    with temporary_folder("page_") as folder, patch.dict(os.environ), ExitStack() as stack:
        _set_up_gradio(folder)
        # Gradio has read it when it was imported, which may be the folder of an earlier page.
        stack.enter_context(patch("gradio.routes.DEFAULT_TEMP_DIR", folder))
        with running(slots=slots, complete=_add_page) as server:
            yield server
            figures = server.service.figures()
            assert (figures.decoding, figures.waiting, figures.failed) == (0, 0, 0)
