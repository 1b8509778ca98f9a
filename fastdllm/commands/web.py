"""`fastdllm web`: a page to chat, watch the denoising and compare; with the endpoint."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from fastdllm.commands.options import (
    add_decoding_options,
    add_model_options,
    add_server_options,
    check_server_packages,
)
from fastdllm.commands.serve import serve_until_signal
from fastdllm.common.console import notice
from fastdllm.common.files import temporary_folder
from fastdllm.traces.page_links import PAGE_PORT

if TYPE_CHECKING:
    from fastapi import FastAPI

    from fastdllm.endpoint.served import Served


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_server_options(parser, port=PAGE_PORT)
    add_model_options(parser)
    add_decoding_options(parser)


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    # Of uploads, and of files made for visitors: other users of the machine cannot read it.
    with temporary_folder("fastdllm_web_") as folder:
        _set_up_gradio(folder)
        check_server_packages("gradio")
        return serve_until_signal(options, "", _add_page)


def _set_up_gradio(folder: str) -> None:
    """Let no variable decide what Gradio does; before it is imported, as it reads some then."""
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ |= {
        "GRADIO_TEMP_DIR": folder,
        "GRADIO_ANALYTICS_ENABLED": "False",
        # Of statistics over the latest 10,000 events, which nobody sees.
        "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(10**9),
    }


def _add_page(app: FastAPI, served: Served, key: str | None) -> None:
    from fastdllm.web.layout import add_page
    from fastdllm.web.presets import load_presets

    presets = load_presets()
    for problem in presets.problems:
        notice(f"no presets of it: {problem}")
    add_page(app, served, presets, key=key)
