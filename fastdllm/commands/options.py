"""What several commands share: options of the model and the decoding, types, progress lines."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, get_args

from fastdllm.model.config import EMBEDDED_MODEL
from fastdllm.settings import DecodingSettings
from fastdllm.validation import validated


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add --model, --revision, --device and --dtype."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default=str(EMBEDDED_MODEL),
        type=os.path.expanduser,
        help="checkpoint folder or hub id (default: the embedded tiny model)",
    )
    group.add_argument("--revision", help="branch, tag or commit of a hub id")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    group.add_argument(
        "--dtype",
        default="auto",
        help="auto, float32, bfloat16 or float16 (default: auto: float32 on a CPU)",
    )


def add_decoding_options(parser: argparse.ArgumentParser) -> None:
    """Add one option per field of `DecodingSettings`, named like it."""
    group = parser.add_argument_group("decoding")
    for name, field in DecodingSettings.model_fields.items():
        kinds = get_args(field.annotation) or (field.annotation,)
        default = "" if field.default is None else f" (default: {field.default})"
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
