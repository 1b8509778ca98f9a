"""`fastdllm trace show FILE [FILE2]`: a recorded decoding, or two, as a page or a picture.

The ending of --output decides: .html is the page to step through, .png one step, .gif all steps.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="write a page or a picture of one trace or of two")
    show.add_argument("file", type=Path, metavar="FILE", help="a trace (JSON)")
    show.add_argument("other", type=Path, metavar="FILE2", nargs="?", help="one to compare with it")
    show.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="OUT",
        help="what to write: .html (steps to play), .png (one step) or .gif (all steps)",
    )
    show.add_argument(
        "--step", type=int, metavar="N", help="of a .png: after this step; 0: before the first"
    )
    show.add_argument(
        "--colour",
        choices=("step", "confidence"),
        help="of a picture: what a token's colour says (default: step)",
    )
    show.add_argument("--theme", choices=("light", "dark"), help="of a picture (default: light)")


def run(options: argparse.Namespace) -> int:
    """Write what was asked for, and print where it is."""
    from fastdllm.common.errors import UserError
    from fastdllm.common.files import write_bytes_atomically
    from fastdllm.traces.exports import ENDINGS, exported
    from fastdllm.traces.record import read_trace
    from fastdllm.traces.token_grid import check_comparable

    ending = options.output.suffix
    if ending not in ENDINGS:
        raise UserError(f"--output {options.output}: the name must end in {', '.join(ENDINGS)}")
    for name in ("colour", "theme"):
        if ending == ".html" and getattr(options, name) is not None:
            raise UserError(f"--{name} is for pictures; the reader of a page chooses it there")
    if options.step is not None and ending != ".png":
        raise UserError(f"--step is for a .png, which shows one step; {ending} shows them all")
    traces = [read_trace(path) for path in (options.file, options.other) if path is not None]
    if len(traces) == 2:
        check_comparable(traces[0], traces[1], f"{options.file} and {options.other}")
    last = max(len(trace.steps) for trace in traces)
    if options.step is not None and not 0 <= options.step <= last:
        raise UserError(f"--step {options.step}: {options.file} has the steps 0 to {last}")
    content = exported(
        traces,
        ending,
        step=options.step,
        colour=options.colour or "step",
        theme=options.theme or "light",
    )
    write_bytes_atomically(options.output, content)
    sys.stdout.write(f"wrote {options.output}\n")
    return 0
