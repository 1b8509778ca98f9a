"""`fastdllm bench`: how fast this machine decodes, and how near to the least possible time.

Prints tables for people and one JSON line last. Needs no download: the embedded model by default,
or random weights in the shapes of a larger one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fastdllm.commands.options import (
    add_decoding_options,
    add_model_options,
    add_threads_option,
    decoding_settings,
    positive_int,
)
from fastdllm.common.console import counting
from fastdllm.common.errors import UserError
from fastdllm.model.config import EMBEDDED_MODEL

if TYPE_CHECKING:
    from fastdllm import DecodingSettings
    from fastdllm.model.config import ModelConfig
    from fastdllm.model.fused import FusedModel
    from fastdllm.tools.bench.workload import Prompts

EMBEDDED_NAME = "models/tiny"
MAX_NEW_TOKENS = 64
BATCHES = "1,8,32,auto"
PROMPT_LENGTH = 128
MOST_BATCH = 4096
# A column that wraps is hard to read; a log has no width.
WIDTH = 120


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--batch",
        default=BATCHES,
        metavar="N[,N]",
        help=f"sequences in flight; auto: what memory allows (default: {BATCHES})",
    )
    parser.add_argument(
        "--repeats",
        type=positive_int,
        default=3,
        metavar="N",
        help="timed runs of each (default: 3)",
    )
    parser.add_argument(
        "--requests",
        type=positive_int,
        metavar="N",
        help="requests of a run, at least (default: 16; never less than twice the batch), and of "
        "--mixed (default: 200)",
    )
    parser.add_argument(
        "--prompt-length",
        type=positive_int,
        metavar="N",
        help="prompts of N random ids (default: word problems for a trained model, "
        f"{PROMPT_LENGTH} ids for random weights)",
    )
    parser.add_argument(
        "--mixed",
        action="store_true",
        help="also: continuous over fixed batches for requests of mixed length, for each batch "
        "size above 1",
    )
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FILE.json",
        help="also: write a trace of the first batch size, for ui.perfetto.dev or chrome://tracing",
    )
    add_threads_option(parser)
    add_model_options(parser)
    add_decoding_options(parser)
    parser.epilog = (
        "--model also takes random:42m, random:1.5b and random:7b: random weights in such shapes. "
        f"--max-new-tokens is {MAX_NEW_TOKENS} here, and no answer ends before."
    )


def run(options: argparse.Namespace) -> int:
    """Measure, print the tables, and the JSON line last."""
    batches = parse_batches(options.batch)
    settings = _settings(options)
    _check(options, batches)
    if options.profile is not None:
        # The profiler reports its start and end on stderr; read when torch is imported.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")

    from fastdllm.machine.device import hardware
    from fastdllm.machine.threads import use_threads
    from fastdllm.tools.bench.suite import BenchPlan, run_suite
    from fastdllm.tools.bench.tables import rounded

    threads = use_threads(options.threads, product=_config(options).largest_product)
    plan = BenchPlan(batches, options.repeats, options.requests, options.mixed, options.profile)
    model = _model(options)
    prompts = _prompts(options, model, plan.prompts_needed)
    record: dict[str, Any] = {
        "hardware": hardware(model.device),
        "model": EMBEDDED_NAME if options.model == str(EMBEDDED_MODEL) else options.model,
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": threads,
        "prompt_tokens": [min(map(len, prompts)), max(map(len, prompts))],
        "max_new_tokens": settings.max_new_tokens,
        "threshold": settings.threshold,
        "repeats": options.repeats,
    }
    with counting("bench") as show:
        record |= run_suite(plan, model, settings, prompts, show)
    _print(record, options.profile)
    sys.stdout.write(json.dumps(rounded(record)) + "\n")
    return 0


def parse_batches(text: str) -> list[int | None]:
    """Batch sizes from text such as "1,8,auto"; None stands for auto.

    Raises:
        UserError: a part is no batch size, or is listed twice.
    """
    batches: list[int | None] = []
    for part in (part.strip() for part in text.split(",")):
        if part != "auto" and not (part.isdecimal() and int(part) >= 1):
            raise UserError(
                f"--batch: {part!r} is not a batch size; give whole numbers from 1, or auto, with "
                f"commas between them, such as {BATCHES}"
            )
        batch = None if part == "auto" else int(part)
        if batch is not None and batch > MOST_BATCH:
            raise UserError(f"--batch: {part} is more than the {MOST_BATCH} that bench measures")
        if batch in batches:
            raise UserError(f"--batch: {part} is listed twice; name each batch size once")
        batches.append(batch)
    return batches


def _settings(options: argparse.Namespace) -> DecodingSettings:
    if "stop_token" in options:
        raise UserError("--stop-token: bench fixes the length of the answers; leave it out")
    if "max_new_tokens" not in options:
        options.max_new_tokens = MAX_NEW_TOKENS
    settings = decoding_settings(options)
    if settings.max_new_tokens < 2:
        raise UserError(
            "--max-new-tokens: bench needs answers of 2 tokens or more; the first of an answer can "
            "come with its prompt"
        )
    return settings


def _check(options: argparse.Namespace, batches: list[int | None]) -> None:
    """Refuse options that could only fail after minutes of measuring."""
    if options.mixed and not any(batch is not None and batch > 1 for batch in batches):
        raise UserError("--mixed needs a batch size above 1 in --batch, such as --batch 8")
    file = options.profile
    if file is not None:
        try:
            file.open("a").close()
        except OSError as error:
            raise UserError(
                f"--profile {file}: cannot be written: {error.strerror}; name a file in a folder "
                "that is there"
            ) from None
    if options.revision is not None and options.model.startswith("random:"):
        raise UserError(f"--revision: {options.model} has none; leave it out")


def _config(options: argparse.Namespace) -> ModelConfig:
    from fastdllm.model.loading import model_config
    from fastdllm.tools.bench.random_models import PREFIX, random_config

    if options.model.startswith(PREFIX):
        return random_config(options.model)
    return model_config(options.model, options.revision)


def _model(options: argparse.Namespace) -> FusedModel:
    from fastdllm.model.loading import load_model
    from fastdllm.tools.bench.random_models import PREFIX, random_model

    where = {"device": options.device, "dtype": options.dtype}
    if options.model.startswith(PREFIX):
        return random_model(options.model, **where)
    return load_model(options.model, revision=options.revision, **where)


def _prompts(options: argparse.Namespace, model: FusedModel, count: int) -> Prompts:
    from fastdllm.tools.bench.random_models import PREFIX
    from fastdllm.tools.bench.workload import question_prompts, random_prompts

    if options.prompt_length is None and not options.model.startswith(PREFIX):
        return question_prompts(options.model, options.revision, count)
    return random_prompts(model.config, [options.prompt_length or PROMPT_LENGTH] * count)


def _print(record: dict[str, Any], profile: Path | None) -> None:
    """Print the tables of what was asked for."""
    from fastdllm.tools.bench import tables as report

    console = Console(highlight=False, width=WIDTH)
    console.print(report.title_line(record), markup=False, soft_wrap=True)
    console.print(report.speed_table(record["runs"]))
    console.print(report.pass_table(record["runs"]))
    for line in report.notes(record["runs"]):
        console.print(line, style="dim", markup=False, soft_wrap=True)
    if "mixed" in record:
        console.print(report.mixed_table(record["mixed"]))
    if "profile_s" in record:
        console.print(report.profile_table(record["profile_s"]))
        console.print(f"{profile}: open it at ui.perfetto.dev", markup=False, soft_wrap=True)
