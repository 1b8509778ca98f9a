"""`fastdllm sensitivity`: which layers can be reused in a pass, measured on calibration items.

Prints heat maps and the span of least damage, and writes everything as JSON. Test items are never
used, so that a span chosen here can be judged on them.
"""

from __future__ import annotations

import argparse
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
    share,
)
from fastdllm.common.console import counting
from fastdllm.common.errors import UserError
from fastdllm.common.files import check_place, json_object
from fastdllm.common.paths import ARTIFACTS, RESULTS
from fastdllm.model.config import EMBEDDED_MODEL
from fastdllm.settings import DecodingSettings

if TYPE_CHECKING:
    from fastdllm.model.fused import FusedModel
    from fastdllm.tools.sensitivity.measurement import MeasuredPasses
    from fastdllm.tools.sensitivity.sensitivity_record import SensitivityRecord

ITEMS = 200
SAVING = 0.3
RECORDS, PUBLISHED = RESULTS / "sensitivity", ARTIFACTS / "sensitivity"
# The width of a log, which has no terminal; the heat maps of 12 steps need 67 columns.
LOG_WIDTH = 100


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--items",
        type=positive_int,
        default=ITEMS,
        metavar="N",
        help=f"calibration items, the first N (default: {ITEMS}, or all that there are)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE.jsonl",
        help='calibration items, one JSON object with a "question" a line (default: word problems '
        "that no test or training has)",
    )
    parser.add_argument(
        "--saving",
        type=share,
        default=SAVING,
        metavar="X",
        help="choose the span of least damage that saves at least this share of a pass's layers "
        f"(default: {SAVING})",
    )
    parser.add_argument(
        "--stride",
        type=positive_int,
        metavar="N",
        help="spans begin and end at every N-th layer (default: each of up to 14 layers, every "
        "second of up to 28, and so on; single layers are always measured)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE.json",
        help=f"where the result goes (default: {RECORDS}/<model name>.json); one line per pass "
        "goes to a .passes.jsonl beside it",
    )
    parser.add_argument(
        "--publish",
        action="store_true",
        help=f"also write it to {PUBLISHED}/, where the report finds it",
    )
    add_threads_option(parser)
    add_model_options(parser)
    add_decoding_options(parser)


def run(options: argparse.Namespace) -> int:
    """Measure, write, print."""
    settings = decoding_settings(options)

    from fastdllm.machine.threads import use_threads
    from fastdllm.model.loading import load_model, model_config
    from fastdllm.tools.sensitivity.calibration import (
        CALIBRATION,
        read_questions,
        refuse_test_items,
    )
    from fastdllm.tools.sensitivity.layer_spans import default_stride, spans_to_measure
    from fastdllm.tools.sensitivity.measurement import check_measurable, measure_passes
    from fastdllm.tools.sensitivity.sensitivity_record import write_log, write_record

    check_measurable(settings)
    data = options.data or CALIBRATION
    questions = read_questions(data, options.items)
    refuse_test_items(questions, data)
    config = model_config(options.model, options.revision)
    origin = _origin(options)
    use_threads(options.threads, product=config.largest_product)
    model = load_model(
        options.model, device=options.device, dtype=options.dtype, revision=options.revision
    )
    layers = model.config.num_layers
    spans = spans_to_measure(layers, options.stride or default_stride(layers))
    name = _model_name(options.model)
    output = options.output or RECORDS / f"{name}.json"
    published = PUBLISHED / f"{name}.json"
    _check_place(output, "--output", options.model)
    if options.publish:
        _check_place(published, "--publish", options.model)
    with counting("sensitivity") as show:
        measured = measure_passes(model, _prompts(options, questions), settings, spans, show)
    _check_measured(measured)
    if _origin(options)["model_digest"] != origin["model_digest"]:
        raise UserError(f"{options.model}: its files changed while it was measured; measure again")
    record = _record(options, measured, model, settings, questions, data, origin)
    write_log(measured, layers, output.with_suffix(".passes.jsonl"))
    write_record(record, output)
    written = [output]
    if options.publish:
        written.append(published)
        write_record(record, published)
    _print(record, options.saving, written)
    return 0


def _origin(options: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of the record that say what is measured, and by which code."""
    from fastdllm.machine.process import git_state
    from fastdllm.model.checkpoint import commit_of, find_checkpoint
    from fastdllm.workflow.project.digests import FileDigests, model_digest

    folder = find_checkpoint(options.model, options.revision)
    digest = options.revision or model_digest(folder, FileDigests())
    commit = commit_of(options.model, folder)
    return {"model_digest": digest, "model_commit": commit, "git": git_state()}


def _record(
    options: argparse.Namespace,
    measured: MeasuredPasses,
    model: FusedModel,
    settings: DecodingSettings,
    questions: list[str],
    data: Path,
    origin: dict[str, Any],
) -> SensitivityRecord:
    from fastdllm.machine.device import hardware
    from fastdllm.tools.sensitivity.sensitivity_record import SensitivityRecord, damages, grids
    from fastdllm.workflow.project.digests import digest_of

    layers = model.config.num_layers
    return SensitivityRecord(
        model=_recorded_name(options.model),
        **origin,
        n_items=len(measured.answers),
        data=data.name,
        data_digest=digest_of(questions),
        **grids(measured.passes, layers),
        spans=damages(measured, layers),
        decoding=settings.model_dump(mode="json", exclude_defaults=True),
        dtype=str(model.dtype).removeprefix("torch."),
        hardware=hardware(model.device),
    )


def _prompts(options: argparse.Namespace, questions: list[str]) -> list[tuple[int, ...]]:
    from fastdllm.model.tokenizer import load_tokenizer, prompt_ids

    tokenizer = load_tokenizer(options.model, options.revision)
    templated = bool(tokenizer.chat_template)
    return [prompt_ids(tokenizer, question, chat_template=templated) for question in questions]


def _check_measured(measured: MeasuredPasses) -> None:
    """Refuse a measurement without any pass; report the items that were left out."""
    refused = measured.refused
    if refused and not measured.answers:
        raise UserError(f"no item can be decoded: {refused[0]}")
    if not measured.passes:
        raise UserError(
            "no sub-block pass in the whole run, so nothing could be reused; take more items, a "
            "higher threshold, or a smaller small_block_size"
        )
    if refused:
        sys.stderr.write(f"items left out: {len(refused)}; the first: {refused[0]}\n")


def _check_place(output: Path, option: str, model: str) -> None:
    """Refuse a path that could only fail after minutes of measuring, or is of another model."""
    if output.is_dir():
        raise UserError(f"{option}: {output} is a folder; a file has to go there")
    other = json_object(output).get("model")
    if other is not None and Path(str(other)).resolve() != Path(_recorded_name(model)).resolve():
        raise UserError(
            f"{option}: {output} holds what was measured of {other}; move it away, or rename the "
            "model's folder"
        )
    check_place(output)


def _print(record: SensitivityRecord, saving: float, written: list[Path]) -> None:
    from fastdllm.tools.sensitivity.show import render

    is_terminal = sys.stdout.isatty()
    console = Console(highlight=False, width=None if is_terminal else LOG_WIDTH)
    for part in render(record, saving):
        console.print(part)
    console.print(f"\nwritten: {', '.join(map(str, written))}", style="dim", markup=False)


def _recorded_name(model: str) -> str:
    return "models/tiny" if model == str(EMBEDDED_MODEL) else model


def _model_name(model: str) -> str:
    """The last part of a folder or hub id."""
    folder = Path(model)
    return folder.resolve().name if folder.is_dir() else folder.name
