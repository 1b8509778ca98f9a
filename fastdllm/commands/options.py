"""What several commands share: options of the model and the decoding, types, progress lines."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from typing import TYPE_CHECKING, Any, get_args

from fastdllm.common.errors import UserError
from fastdllm.model.config import EMBEDDED_MODEL
from fastdllm.settings import DecodingSettings
from fastdllm.validation import validated

if TYPE_CHECKING:
    from fastdllm.model.fused import FusedModel

# What an option that is not given is, where commands take it from there.
OF_CONFIG = "as workflow_config.yaml says"


def add_model_options(parser: argparse.ArgumentParser, *, of_config: bool = False) -> None:
    """Add --model, --revision, --device and --dtype.

    of_config: what is not given is None, to be taken from workflow_config.yaml.
    """
    about = f"default: {OF_CONFIG}" if of_config else None
    group = parser.add_argument_group("model", about)
    group.add_argument(
        "--model",
        default=None if of_config else str(EMBEDDED_MODEL),
        type=os.path.expanduser,
        help="checkpoint folder or hub id" + _default("the embedded tiny model", of_config),
    )
    group.add_argument("--revision", help="branch, tag or commit of a hub id")
    default = None if of_config else "auto"
    text = "auto, cpu, cuda or cuda:N" + _default("auto", of_config)
    group.add_argument("--device", default=default, help=text)
    text = "auto, float32, bfloat16 or float16" + _default("auto: float32 on a CPU", of_config)
    group.add_argument("--dtype", default=default, help=text)


def loaded_tokenizer(options: argparse.Namespace, *, for_one_prompt: bool = False) -> Any:
    """Load the tokenizer of the model that the options of `add_model_options` name.

    for_one_prompt: where the model's files allow it, without transformers and what only it can do.

    Raises:
        UserError: there is no such model, or its tokenizer cannot be used.
    """
    from fastdllm.model.loading import model_config
    from fastdllm.model.tokenizer import load_prompt_tokenizer, load_tokenizer

    model_config(options.model, options.revision)  # says more clearly what is no model
    load = load_prompt_tokenizer if for_one_prompt else load_tokenizer
    return load(options.model, options.revision)


def loaded_model(options: argparse.Namespace) -> FusedModel:
    """Load the model that the options of `add_model_options` name.

    Raises:
        UserError: there is none, or it cannot be used here.
    """
    from fastdllm.machine.threads import use_threads
    from fastdllm.model.loading import load_model, model_config

    use_threads(product=model_config(options.model, options.revision).largest_product)
    return load_model(
        options.model, device=options.device, dtype=options.dtype, revision=options.revision
    )


def _default(value: Any, of_config: bool) -> str:
    return "" if of_config or value is None else f" (default: {value})"


def add_decoding_options(parser: argparse.ArgumentParser, *, of_config: bool = False) -> None:
    """Add one option per field of `DecodingSettings`, named like it.

    of_config: the help names no defaults, as workflow_config.yaml may have others.
    """
    about = f"default: {OF_CONFIG}" if of_config else None
    group = parser.add_argument_group("decoding", about)
    for name, field in DecodingSettings.model_fields.items():
        kinds = get_args(field.annotation) or (field.annotation,)
        default = _default(field.default, of_config)
        options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS}
        options["help"] = f"{field.description}{default}".replace("%", "%%")
        if bool in kinds:
            options["action"] = argparse.BooleanOptionalAction
        else:
            # Passed on as text: the settings report what is wrong with a value.
            options["metavar"] = "X"
        group.add_argument(f"--{name.replace('_', '-')}", **options)


def decoding_settings(options: argparse.Namespace) -> DecodingSettings:
    """Return the settings that the options ask for.

    Raises:
        UserError: a value is not allowed, or two do not fit together.
    """
    fields = DecodingSettings.model_fields
    values = {name: value for name, value in vars(options).items() if name in fields}
    return validated(DecodingSettings, values, "options")


def add_server_options(parser: argparse.ArgumentParser, *, port: int) -> None:
    """Add --host, --port, --key-file, --slots and --timeout, of what is served over HTTP."""
    group = parser.add_argument_group("server")
    group.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; any other than this machine's own needs a key (default: "
        "127.0.0.1)",
    )
    group.add_argument(
        "--port",
        type=_port,
        default=port,
        metavar="N",
        help=f"0 is any free one (default: {port})",
    )
    group.add_argument(
        "--key-file",
        metavar="FILE",
        help="its first line is the key that requests must have (default: the environment "
        "variable FASTDLLM_KEY; without either, no key)",
    )
    group.add_argument(
        "--slots",
        type=positive_int,
        metavar="N",
        help="most requests that decode at the same time (default: what memory allows)",
    )
    group.add_argument(
        "--timeout",
        type=positive_int,
        default=600,
        metavar="SECONDS",
        help="longest time of a request, waiting included (default: 600)",
    )


def check_server_packages(*others: str) -> None:
    """Refuse to start where packages of a server are missing: those of the endpoint, and others.

    Raises:
        UserError: saying how to install them.
    """
    try:
        for name in ("fastapi", "prometheus_client", "uvicorn", *others):
            importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"no module {error.name}, which this command needs; type: "
            "pip install -c constraints.txt -e '.[chat]'"
        ) from None


def add_threads_option(parser: argparse.ArgumentParser) -> None:
    """Add --threads; None: to be chosen by the size of the model."""
    parser.add_argument(
        "--threads",
        type=positive_int,
        metavar="N",
        help="CPU threads (default: 1 for a small model, else one per idle core)",
    )


def add_selection_options(parser: argparse.ArgumentParser) -> None:
    """Add --experiment, --task, --config and --limit, the keys of Snakemake's `--config`."""
    for kind in ("experiment", "task", "config"):
        parser.add_argument(f"--{kind}", metavar="NAME[,NAME]", help=f"only this {kind}")
    parser.add_argument("--limit", metavar="N", help="the trial runs over the first N items")


def selected(options: argparse.Namespace) -> dict[str, str]:
    """Return what was given of the selection, by its keys."""
    keys = ("experiment", "task", "config", "limit")
    return {key: value for key in keys if (value := getattr(options, key)) is not None}


def positive_int(text: str) -> int:
    """Convert the text of an option to a whole number from 1."""
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not allowed; it should be a whole number from 1"
        )
    return int(text)


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; it should be from 0 to 65535")
    return int(text)


def share(text: str) -> float:
    """Convert the text of an option to a share above 0, up to 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not allowed; it should be a share above 0, up to 1, such as 0.3"
        )
    return value


def print_now(line: str) -> None:
    """Print a line at once, so that a log shows how far the command is."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
