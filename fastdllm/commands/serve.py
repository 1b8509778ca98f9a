"""`fastdllm serve`: answer programs over HTTP, in the shape of the OpenAI API."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastdllm.commands.options import (
    add_decoding_options,
    add_model_options,
    add_server_options,
    check_server_packages,
    decoding_settings,
    loaded_model,
    loaded_tokenizer,
)

if TYPE_CHECKING:
    from fastapi import FastAPI

    from fastdllm.endpoint.served import Served

PORT = 8000


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_server_options(parser, port=PORT)
    add_model_options(parser)
    add_decoding_options(parser)


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    check_server_packages()
    return serve_until_signal(options, "/v1")


def serve_until_signal(
    options: argparse.Namespace,
    path: str,
    complete: Callable[[FastAPI, Served, str | None], None] | None = None,
) -> int:
    """Load the model, print where it is served, and serve until Ctrl-C or SIGTERM.

    Args:
        path: of what people open, after the address.
        complete: adds to the app of the endpoint, given what is served and its key.

    Raises:
        UserError: a mistake in the options, or a port that is taken.
    """
    from fastdllm.decoding.admission import check_settings
    from fastdllm.endpoint.access import check_exposure, read_key
    from fastdllm.endpoint.app import create_app
    from fastdllm.endpoint.served import Served, name_of
    from fastdllm.endpoint.server import address_of, listen, open_port, serve, tunnel_hint
    from fastdllm.serving.service import Service

    settings = decoding_settings(options)
    key = read_key(options.key_file)
    check_exposure(options.host, key)
    with open_port(options.host, options.port) as bound:
        tokenizer = loaded_tokenizer(options)
        model = loaded_model(options)
        check_settings(model.config, settings)
        with Service(model, slots=options.slots) as service:
            served = Served(
                name_of(options.model),
                model,
                tokenizer,
                service,
                settings,
                timeout_s=options.timeout,
                revision=options.revision,
            )
            app = create_app(served, key=key, host=options.host)
            if complete is not None:
                complete(app, served, key)
            listen(bound)
            address = address_of(bound)
            sys.stdout.write(f"{served.name} on {model.device}: {address}{path} (Ctrl-C ends)\n")
            hint = tunnel_hint(options.host, bound.getsockname()[1])
            sys.stdout.write(f"{hint}\n" if hint else "")
            sys.stdout.flush()
            serve(app, bound, end=service.close)
    return 0
