"""`fastdllm lm-eval`: lm-eval's own command line, with the model fast_dllm_v2 and tasks/ added.

    fastdllm lm-eval run --model fast_dllm_v2 --model_args pretrained=models/tiny,threshold=0.9
        --tasks word_problems --apply_chat_template --limit 10 --output_path out

Everything behind `lm-eval` is passed on. Added are the folder tasks/, whose tasks win over those of
lm-eval of the same name, and the digest of model and settings in the name of --use_cache.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdllm.common.console import notice
from fastdllm.common.errors import UserError
from fastdllm.common.files import cannot
from fastdllm.common.paths import TASKS

if TYPE_CHECKING:
    from lm_eval.config.evaluate_config import EvaluatorConfig

    from fastdllm.tasks.task_source import TaskSource

# How errors of lm-eval begin that are mistakes in the words typed.
NOT_FOUND, REFUSED = "Tasks not found: ", "Attempted to "


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs=argparse.REMAINDER,
        metavar="run|ls|validate ...",
        help="what lm-eval takes (fastdllm lm-eval run --help)",
    )


def run(options: argparse.Namespace) -> int:
    from lm_eval._cli import HarnessCLI
    from lm_eval.utils import setup_logging

    from fastdllm.harness.own_tasks import have_local_data, own_tasks, task_names, workflow_config
    from fastdllm.runs.needs import require_permission
    from fastdllm.tasks.lm_eval_setup import code_notices, lm_eval_environment, runs_code

    # lm-eval reads the words from there only.
    sys.argv = ["lm-eval", *(options.words or ["--help"])]
    cli = HarnessCLI()
    args = cli.parse_args()
    config = _checked(args) if args.command == "run" else None
    if TASKS.is_dir() and hasattr(args, "include_path"):
        given = config.include_path if config is not None else args.include_path
        args.include_path = [str(TASKS), given] if given else str(TASKS)
    if config is None:
        cli.execute(args)
        return 0
    project, own = workflow_config(), own_tasks(task_names(config.tasks))
    is_local = have_local_data(own) and own.keys() == set(task_names(config.tasks))
    model = config.model_args.get("pretrained", config.model_args.get("model_path", ""))
    # Published command lines always have the option; in a project its configuration alone counts.
    allows_code = bool(config.confirm_run_unsafe_code)
    if project is not None:
        allows_code = args.confirm_run_unsafe_code = project.allow_code_execution
    of_code = [source for source in own.values() if runs_code(source)]
    for source in of_code:
        require_permission(source, lambda: allows_code)
    with lm_eval_environment(
        offline=is_local and Path(str(model)).expanduser().is_dir(),
        private_cache=is_local,
        allows_code=allows_code,
    ):
        setup_logging()
        _evaluate(cli, args, config, own)
    for line in code_notices() if of_code else ():
        notice(line)
    return 0


def _checked(args: argparse.Namespace) -> EvaluatorConfig:
    """Return the options with those of --config, as lm-eval puts them together.

    Raises:
        UserError: lm-eval refuses them.
    """
    from lm_eval.config.evaluate_config import EvaluatorConfig

    if args.model is None and args.config is None:
        args.model = "fast_dllm_v2"
    try:
        config = EvaluatorConfig.from_cli(args)
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise UserError(f"lm-eval: {' '.join(str(error).split())}") from None
    if config.samples and config.cache_requests:
        raise UserError(
            "lm-eval run: --cache_requests keeps prompts under the name of their task alone, and "
            "with --samples they would be scored as those of other items; leave one of them out"
        )
    if not config.tasks:
        raise UserError(f"lm-eval run: --tasks is missing; name some of {TASKS}/, or of lm-eval")
    return config


def _evaluate(
    cli: Any, args: argparse.Namespace, config: EvaluatorConfig, own: Mapping[str, TaskSource]
) -> None:
    from fastdllm.runs.decoder_code import imported_as_digested

    with imported_as_digested():
        from fastdllm.harness.answerer import device_of_process
        from fastdllm.harness.arguments import read_arguments
        from fastdllm.harness.fast_dllm_v2 import NAME, FastDLLM
        from fastdllm.harness.team import process_count, serves
        from fastdllm.tasks.lm_eval_setup import CODE_REFUSED
        from fastdllm.workflow.project.config_files import unknown_task

    if config.model == NAME:
        given = dict(config.model_args)
        # By this name lm-eval calls the folder of the results.
        args.model_args = {"pretrained" if k == "model_path" else k: v for k, v in given.items()}
        others = {
            "batch_size": config.batch_size,
            "max_batch_size": config.max_batch_size,
            "device": config.device,
        }
        if serves():
            FastDLLM.create_from_arg_obj(args.model_args, others)
        device = device_of_process(str(given.get("device", config.device)), process_count())
        # A mistake shows before lm-eval lists all its tasks, which takes seconds.
        arguments = read_arguments({**given, "device": device})
        if config.use_cache:
            args.use_cache = f"{config.use_cache}_{arguments.digest()[:12]}"
    for name, source in own.items():
        notice(f"task {name} is {source.file}")
    for path in filter(None, (args.use_cache, config.output_path)):
        is_folder = path == config.output_path and Path(path).suffix != ".json"
        _check_writable(Path(path) if is_folder else Path(path).parent)
    before = _results(config.output_path)
    try:
        cli.execute(args)
    except ValueError as error:
        text = " ".join(str(error).split())
        if text.startswith(NOT_FOUND):
            missing = text.removeprefix(NOT_FOUND).split(", ")[0]
            raise unknown_task(missing, (), "--tasks") from None
        if "marked as unsafe" in text:
            raise UserError(f"lm-eval run: one of these tasks: {CODE_REFUSED}") from None
        if text.startswith(REFUSED):
            raise UserError(f"lm-eval: {text}") from None
        raise
    if config.output_path and not _results(config.output_path) - before:
        raise UserError(
            f"{config.output_path}: lm-eval could not write its results there (it says why with "
            "LMEVAL_LOG_LEVEL=INFO); with --use_cache, the same command asks nothing again"
        )


def _check_writable(folder: Path) -> None:
    """Refuse a folder for results before anything is decoded; lm-eval would notice at the end.

    Raises:
        UserError: it cannot be made, or not be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise cannot("write into", folder, error) from None


def _results(output_path: str | None) -> set[Path]:
    """Return the files of results that are there, wherever lm-eval puts them."""
    if output_path is None:
        return set()
    path = Path(output_path)
    if path.suffix == ".json":
        return set(path.parent.glob(f"{path.stem}_*.json"))
    return set(path.rglob("results_*.json"))
