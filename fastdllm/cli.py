"""The command line: one table of commands, each in its own module, loaded when it is called.

A user's mistake is one line on stderr and exit code 2. Nothing heavy is imported here, so that
`fastdllm status` answers at once.
"""

from __future__ import annotations

import argparse
import atexit
import errno
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from fastdllm.common.console import accept_any_encoding, utf8_text
from fastdllm.common.errors import (
    INTERRUPTED_EXIT_CODE,
    USER_ERROR_EXIT_CODE,
    UserError,
    nearest_name,
    unknown_name,
)
from fastdllm.common.files import cannot
from fastdllm.common.paths import check_code
from fastdllm.machine.threads import spin_briefly
from fastdllm.version import __version__

COMMANDS = {
    "generate": "answer one prompt and show how it was decoded",
    "chat": "talk to a model in the terminal, and watch it decode",
    "web": "open a page to chat, watch the denoising and compare settings",
    "serve": "answer programs over HTTP, in the shape of the OpenAI API",
    "evaluate": "evaluate a task once, without an experiment",
    "bench": "measure speed here, and how far it is from the least time needed",
    "estimate": "estimate the GPU hours of the runs to be made",
    "submit": "run snakemake in a SLURM job",
    "status": "which runs are done, missing, stale, running or failed",
    "table": "print the tables of the published results",
    "claims": "what was claimed before it was run, and what came out",
    "power": "how many items the claims of an experiment need",
    "compare": "compare two runs item by item",
    "report": "write the HTML report, plots and tables",
    "trace": "show a recorded decoding: a page to step through, or a picture",
    "sensitivity": "measure which layers can be reused",
    "new-experiment": "copy the template of an experiment",
    "new-task": "copy a task of lm-eval into tasks/",
    "doctor": "check what would stop runs on this machine",
    "env": "show the environment and its caches; pack it for jobs",
    "lm-eval": "lm-eval's own command line with our model and tasks",
    "fetch": "download model and data for jobs without network",
    "plan": "write the requests of a task (what the workflow's plan rule runs)",
    "eval": "decode and score one run (what the workflow's eval rule runs)",
    "finish": "score a run that was decoded in shards or in a pack",
    "pack": "decode and score several runs, loading the model once",
    "same": "write the summary of a run that is the same computation as another",
    "speed": "show the ratios of speeds measured in turn (the workflow's speed rules measure them)",
    "aggregate": "publish finished summaries into artifacts/ and write the tables",
}

# They say what is wrong with an environment, so they work in a wrong one.
ABOUT_THE_MACHINE = ("doctor", "env")
NO_ROOM = {errno.ENOSPC: "space", errno.EDQUOT: "quota"}


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are `UserError`s, with the nearest option named."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: "):
            argument = message.removeprefix("unrecognized arguments: ").split()[0].split("=")[0]
            options = [option for action in self._actions for option in action.option_strings]
            nearest = nearest_name(argument, options)
            hint = f"; did you mean {nearest}?" if nearest else ""
            message = f"unknown argument {argument}{hint}"
        raise UserError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    accept_any_encoding()
    spin_briefly()
    # Python's last search for garbage would go through all that torch made: 0.3 s to free nothing.
    atexit.register(gc.freeze)
    try:
        if sys.stdout is None:
            raise UserError("standard output is closed; > /dev/null drops what is printed")
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"fastdllm: {error}", file=sys.stderr)
        return USER_ERROR_EXIT_CODE
    except KeyboardInterrupt:
        print("fastdllm: interrupted; the same command resumes", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE
    except BrokenPipeError:
        # The reader of a pipe has closed it (such as `| head`).
        _drop_output()
        return 0
    except (OSError, UnicodeEncodeError) as error:
        line = _refusal(error)
        if line is None:
            raise
        print(f"fastdllm: {line}", file=sys.stderr)
        if getattr(error, "errno", None) in NO_ROOM:
            _drop_output()
        return USER_ERROR_EXIT_CODE


def _refusal(error: OSError | UnicodeEncodeError) -> str | None:
    """Return what the system refuses in one line; None where a defect is more likely."""
    if isinstance(error, UnicodeEncodeError):
        encoding = sys.getfilesystemencoding()
        letters = error.object[error.start : error.end]
        return (
            f"in this locale, names of files are {encoding}, which lacks {letters!r}; type: export "
            "PYTHONUTF8=1"
            if encoding != "utf-8"
            else None
        )
    if error.errno in NO_ROOM:
        return f"no {NO_ROOM[error.errno]} left to write to; free some, then try again"
    is_denied = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    return str(cannot("use", error.filename, error)) if is_denied and error.filename else None


def _drop_output() -> None:
    """Discard buffered output, on which Python would otherwise fail again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str]) -> int:
    parser = Parser(
        prog="fastdllm",
        description="Experiments on block-diffusion language models.",
        epilog="commands:\n"
        + "\n".join(f"  {name:<14} {text}" for name, text in COMMANDS.items())
        + "\n\nfastdllm COMMAND --help shows its options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"fastdllm {__version__}")
    parser.add_argument(
        "--directory", metavar="DIR", help="the project folder (default: the current one)"
    )
    parser.add_argument("command", nargs="?", metavar="COMMAND")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    for argument in arguments:
        utf8_text(argument, f"argument {argument!r}")
    chosen = parser.parse_args(arguments)
    if chosen.command is None:
        parser.print_help()
        return 0
    if chosen.command not in COMMANDS:
        raise unknown_name("command", chosen.command, COMMANDS)
    module = chosen.command.replace("-", "_")
    command = importlib.import_module(f"fastdllm.commands.{module}")
    command_parser = Parser(
        prog=f"fastdllm {chosen.command}",
        description=f"{COMMANDS[chosen.command].capitalize()}.",
        allow_abbrev=False,
    )
    command.configure(command_parser)
    if getattr(command, "PASSES_ON", False):
        options, passed_on = command_parser.parse_known_args(chosen.rest)
        options.passed_on = passed_on
    else:
        options = command_parser.parse_args(chosen.rest)
    if chosen.directory is not None:
        try:
            os.chdir(chosen.directory)
        except OSError as error:
            raise UserError(f"--directory {chosen.directory}: {error.strerror}") from None
    if chosen.command not in ABOUT_THE_MACHINE:
        check_code(Path.cwd())
    return command.run(options)
