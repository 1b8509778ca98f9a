"""`fastdllm evaluate`: one evaluation without an experiment, with its table line.

    fastdllm evaluate word_problems --limit 10 --threshold 0.8

What is not given is as workflow_config.yaml says. Plans and decodes as the workflow does, into
results/_single; after a kill the same command goes on, and it decodes nothing twice.
"""

from __future__ import annotations

import argparse
import shutil
import sys

from fastdllm.commands.options import add_decoding_options, add_model_options, positive_int

_TASK = ("batch_size", "data", "num_fewshot")
_MODEL = {"model": "path", "revision": "revision", "dtype": "dtype", "device": "device"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", help="a task of tasks/")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="the first N items only")
    parser.add_argument(
        "--batch-size",
        type=lambda text: int(text) if text.isdecimal() else text,
        metavar="N",
        help="most sequences decoded at once, or auto",
    )
    parser.add_argument("--data", metavar="DIR", help="folder of the task's files")
    parser.add_argument("--num-fewshot", metavar="N", help="worked examples in each prompt")
    parser.add_argument("--again", action="store_true", help="decode it once more, from the start")
    add_model_options(parser, of_config=True)
    add_decoding_options(parser, of_config=True)


def run(options: argparse.Namespace) -> int:
    from fastdllm.commands import eval as eval_command
    from fastdllm.records.summary import read_summary
    from fastdllm.report.groups import grouped
    from fastdllm.report.text_tables import terminal_table
    from fastdllm.runs.result import Outcome
    from fastdllm.settings import DecodingSettings
    from fastdllm.single.single_runs import single_run

    values = {name: value for name, value in vars(options).items() if value is not None}
    single = single_run(
        options.task,
        limit=options.limit,
        model={key: values[name] for name, key in _MODEL.items() if name in values},
        options={key: values[key] for key in _TASK if key in values},
        decoding={key: values[key] for key in DecodingSettings.model_fields if key in values},
    )
    folder, result = single.run.folder, None if options.again else single.result()
    if result is None:
        single.prepare()
        rest = {"device": None, "threads": None, "shard": None, "wait": True}
        of_eval = argparse.Namespace(spec=single.run.spec_path, again=options.again, **rest)
        if code := eval_command.run(of_eval):
            return code
        result = read_summary(single.run.summary_path)
    else:
        sys.stdout.write("\n".join(Outcome(result, is_new=False).lines(folder)) + "\n")
    sys.stdout.write("\n" + terminal_table(grouped([result]), shutil.get_terminal_size().columns))
    return 0
