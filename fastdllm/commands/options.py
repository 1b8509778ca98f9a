"""Command-line options of everything that decodes: the model, and one option per setting."""

from __future__ import annotations

import argparse
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
            # Text goes through as it is: the settings say what is wrong with a value.
            options["metavar"] = "X"
        group.add_argument(f"--{name.replace('_', '-')}", **options)


def decoding_settings(options: argparse.Namespace) -> DecodingSettings:
    """The settings that the options ask for.

    Raises:
        UserError: a value is not allowed, or two do not fit together.
    """
    fields = DecodingSettings.model_fields
    given = {name: value for name, value in vars(options).items() if name in fields}
    return validated(DecodingSettings, given, "options")
