"""How fast the decoder is: `python -m benchmarks.engine` keeps the figures of `fastdllm bench`.

Options given here go on to each `fastdllm bench`, for a quick look; then nothing is kept.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.record import ROOT, record

COMMAND = "python -m benchmarks.engine"
# Few requests of the larger model take long enough to be timed. Continuous against fixed batches
# takes ten minutes there and is not among these: docs/performance.md has the command.
LARGE = ("--model", "random:42m", "--requests", "3")
CASES = (
    ("--batch", "1,8,32,auto"),
    (*LARGE, "--batch", "1,8", "--max-new-tokens", "24"),
    (*LARGE, "--batch", "32", "--max-new-tokens", "10"),
)


def bench(*arguments: str) -> dict[str, Any]:
    """The record of one `fastdllm bench` on this machine's CPU; its tables are shown."""
    command = (sys.executable, "-m", "fastdllm", "bench", "--device", "cpu", *arguments)
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    tables, _, line = done.stdout.rstrip("\n").rpartition("\n")
    sys.stdout.write(tables + "\n")
    return json.loads(line)


def figures_of(result: dict[str, Any]) -> dict[str, str]:
    """What the table of the project shows of one record."""
    model = result["model"]
    return {
        f"decoding, {model}, batch {run['batch']}": f"{run['tokens_per_s']:,.0f} tokens/s, "
        f"{run['share_of_floor']:.0%} of the floor"
        for run in result["runs"]
    }


def main(options: Sequence[str]) -> None:
    """Measure all cases, and keep the figures where nothing was changed."""
    figures: dict[str, str] = {}
    for case in CASES:
        figures |= figures_of(bench(*case, *options))
    for figure, value in figures.items():
        sys.stdout.write(f"{figure}: {value}\n")
    if not options:
        record("engine", command=COMMAND, figures=figures)


if __name__ == "__main__":
    main(sys.argv[1:])
