"""`fastdllm web`: a page to chat, watch the denoising and compare; with the endpoint."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from fastdllm.commands.options import (
    add_decoding_options,
    add_model_options,
    add_server_options,
    check_server_packages,
)
from fastdllm.commands.serve import serve_until_signal
from fastdllm.common.console import notice
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
    check_server_packages("gradio")
    return serve_until_signal(options, "", _add_page)


def _add_page(app: FastAPI, served: Served, key: str | None) -> None:
    from fastdllm.web.layout import add_page
    from fastdllm.web.presets import load_presets

    presets = load_presets()
    for problem in presets.problems:
        notice(f"no presets of it: {problem}")
    add_page(app, served, presets, key=key)
