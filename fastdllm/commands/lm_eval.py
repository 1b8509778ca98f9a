"""`fastdllm lm-eval`: lm-eval's own command line, with the model fast_dllm_v2 and tasks/ added.

    fastdllm lm-eval run --model fast_dllm_v2 --model_args pretrained=models/tiny,threshold=0.9
        --tasks word_problems --apply_chat_template --limit 10 --output_path out

The options are lm-eval's. Added are the tasks in tasks/, which win over lm-eval's own of the same
name unless --include_path says where tasks are, and the digest of model and settings in the name of
--use_cache.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastdllm.common.console import notice
from fastdllm.common.errors import UserError
from fastdllm.common.files import cannot
from fastdllm.common.paths import TASKS, expanded

if TYPE_CHECKING:
    from lm_eval.config.evaluate_config import EvaluatorConfig

# Where neither --model nor --config names one; lm-eval itself takes hf.
MODEL = "fast_dllm_v2"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs=argparse.REMAINDER,
        metavar="run|ls|validate ...",
        help="what lm-eval takes (fastdllm lm-eval run --help)",
    )


def run(options: argparse.Namespace) -> int:
    from lm_eval._cli import HarnessCLI

    _check_words(options.words)
    # lm-eval reads the words from there only.
    sys.argv = ["lm-eval", *(options.words or ["--help"])]
    cli = HarnessCLI()
    for action in cli._subparsers.choices["run"]._actions:
        if action.dest == "model":
            action.help = f"Model name (default: {MODEL})"
    args = cli.parse_args()
    if args.command == "run":
        _run(_checked(args))
        return 0
    if TASKS.is_dir() and getattr(args, "include_path", "") is None:
        args.include_path = str(TASKS)
    cli.execute(args)
    return 0


def _check_words(words: Sequence[str]) -> None:
    """Refuse arguments behind JSON, which lm-eval would ignore.

    Raises:
        UserError: naming them.
    """
    for option, value, behind in zip(words, words[1:], words[2:], strict=False):
        takes_json = option in ("-a", "--model_args", "--gen_kwargs") and value.lstrip()[:1] == "{"
        if takes_json and not behind.startswith("-"):
            raise UserError(
                f"lm-eval run: {option}: lm-eval would ignore {behind!r} behind JSON; write it "
                "into the braces"
            )


def _checked(args: argparse.Namespace) -> EvaluatorConfig:
    """Return the options with those of --config, as lm-eval puts them together.

    Raises:
        UserError: lm-eval refuses them, or they are not for us.
    """
    from lm_eval.config.evaluate_config import EvaluatorConfig

    try:
        if args.model is None and (
            args.config is None or "model" not in EvaluatorConfig.load_yaml_config(args.config)
        ):
            args.model = MODEL
        config = EvaluatorConfig.from_cli(args)
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise UserError(f"lm-eval: {' '.join(str(error).split())}") from None
    _check_meant(config)
    if not config.tasks:
        raise UserError(f"lm-eval run: --tasks is missing; name some of {TASKS}/, or of lm-eval")
    return config


def _check_meant(config: EvaluatorConfig) -> None:
    """Refuse options that lm-eval would take for something else, or that are not for us.

    Raises:
        UserError: naming the option.
    """
    limit = config.limit
    if limit is not None and not (0 < limit < 1 or (limit >= 1 and limit == int(limit))):
        raise UserError(
            f"lm-eval run: --limit {limit:g}: should be a number of items, or a share of them "
            "below 1"
        )
    samples = config.samples or {}
    if not isinstance(samples, dict):
        raise UserError("lm-eval run: --samples: should be {task: [numbers of items]}, or its file")
    for task, items in samples.items():
        if not isinstance(items, list) or not items or items != sorted(set(items)) or items[0] < 0:
            raise UserError(
                f"lm-eval run: --samples: {task}: {items}: lm-eval would take others, or call them "
                "by wrong numbers; name each item once, in ascending order from 0"
            )
    if config.include_path is not None and not Path(config.include_path).is_dir():
        raise UserError(f"lm-eval run: --include_path {config.include_path}: no such folder")
    wishes = config.gen_kwargs or {}
    if wishes.get("temperature") and not wishes.get("do_sample"):
        raise UserError(
            f"lm-eval run: --gen_kwargs temperature={wishes['temperature']}: has no "
            "effect on tasks that say do_sample: false; add do_sample=true, or leave it out"
        )
    if config.cache_requests:
        raise UserError(
            "lm-eval run: --cache_requests keeps prompts and generation_kwargs under the name of "
            "their task alone, and would ask old ones after an edit of task, data, chat template "
            "or --gen_kwargs; leave it out"
        )
    if config.check_integrity:
        raise UserError(
            "lm-eval run: --check_integrity runs tests that are in lm-eval's repository only, not "
            "in its package; leave it out"
        )
    if config.wandb_args or config.trackio_args:
        raise UserError(
            "lm-eval run: --wandb_args and --trackio_args are not taken here; log the files of "
            "--output_path, or import the model into lm-eval's own program (docs/evaluation.md)"
        )


def _run(config: EvaluatorConfig) -> None:
    from lm_eval.utils import setup_logging

    from fastdllm.harness.own_tasks import own_tasks, task_names, workflow_config
    from fastdllm.runs.needs import require_permission
    from fastdllm.tasks.lm_eval_setup import (
        code_notices,
        lm_eval_environment,
        runs_code,
    )

    project, names = workflow_config(), task_names(config.tasks)
    own = own_tasks(names, project) if config.include_path is None else {}
    if config.include_path is None and TASKS.is_dir():
        config.include_path = str(TASKS)
    if project is not None:
        # Published command lines always have the option.
        config.confirm_run_unsafe_code = project.allow_code_execution
    of_code = [source for source in own.values() if runs_code(source)]
    for source in of_code:
        require_permission(source, lambda: config.confirm_run_unsafe_code)
    is_local = own.keys() == set(names)
    model = config.model_args.get("pretrained", config.model_args.get("model_path", ""))
    with lm_eval_environment(
        offline=is_local and expanded(str(model)).is_dir(),
        private_cache=is_local,
        allows_code=config.confirm_run_unsafe_code,
    ):
        from fastdllm.runs.decoder_code import imported_as_digested

        with imported_as_digested():
            from fastdllm.harness.fast_dllm_v2 import NAME
            from fastdllm.harness.lm_eval_run import run_lm_eval

        setup_logging()
        if config.model == NAME:
            _prepare(config)
        for path in filter(None, (config.use_cache, config.output_path)):
            is_folder = path == config.output_path and Path(path).suffix != ".json"
            _check_writable(Path(path) if is_folder else Path(path).parent)
        run_lm_eval(config, own)
    for line in code_notices() if of_code else ():
        notice(line)


def _prepare(config: EvaluatorConfig) -> None:
    """Check the arguments of our model; a process that only serves another one does so, and exits.

    Raises:
        UserError: an argument that is unknown or not allowed.
    """
    from lm_eval.config.evaluate_config import DEFAULT_SEED

    from fastdllm.harness.answerer import device_of_process
    from fastdllm.harness.arguments import read_arguments
    from fastdllm.harness.fast_dllm_v2 import FastDLLM
    from fastdllm.harness.team import process_count, serves

    given = dict(config.model_args)
    # By this name lm-eval calls the folder of the results.
    config.model_args = {"pretrained" if k == "model_path" else k: v for k, v in given.items()}
    device = device_of_process(str(given.get("device", config.device)), process_count())
    arguments = read_arguments({**given, "device": device})
    others = {key: getattr(config, key) for key in ("batch_size", "max_batch_size", "device")}
    if serves():
        FastDLLM.create_from_arg_obj(config.model_args, others)
    for key in others.keys() & given.keys():  # they win, and are what lm-eval is to name
        setattr(config, key, given[key])
    if config.seed and config.seed != DEFAULT_SEED:
        notice(
            "--seed chooses examples, not what is drawn at a temperature above 0: for that, "
            f"--model_args seed={arguments.settings.seed}"
        )
    if config.use_cache:
        config.use_cache = f"{config.use_cache}_{arguments.digest()[:12]}"


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
