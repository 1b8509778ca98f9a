"""Options, the order of things, the table and the JSON of `python -m benchmarks.gpu`."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.gpu.machine import check_packages, look_around
from benchmarks.gpu.parts import MACHINE, NAMES, PARTS, ROOT, Outcome, Runner
from fastdllm.common.console import counted, notice
from fastdllm.common.errors import (
    INTERRUPTED_EXIT_CODE,
    USER_ERROR_EXIT_CODE,
    UserError,
    error_line,
    unknown_name,
)
from fastdllm.common.files import check_place, write_json_atomically

COMMAND = "python -m benchmarks.gpu"
# A table that wraps is hard to read; a log has no width.
WIDTH = 150


def main(words: Sequence[str]) -> int:
    """Run the command.

    Returns 0 if all that can be measured here was, and each check holds; 1 if not; 2 for a mistake.
    """
    options = parser().parse_args(words)
    # As Ctrl-C: what runs is ended, and what was measured is kept.
    earlier = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for name in options.part:
            if name not in NAMES:
                raise unknown_name("part", name, NAMES)
        if options.device == "cpu" and not options.small:
            raise UserError("--device cpu is a rehearsal, which needs --small beside it")
        check_place(options.json)
        check_packages()
        return run(options)
    except UserError as error:
        notice(str(error))
        return USER_ERROR_EXIT_CODE
    except OSError as error:  # such as a full disk
        notice(error_line(error))
        return USER_ERROR_EXIT_CODE
    except KeyboardInterrupt:
        notice(f"interrupted; {options.json} has what was measured")
        return INTERRUPTED_EXIT_CODE
    finally:
        signal.signal(signal.SIGTERM, earlier)


def parser() -> argparse.ArgumentParser:
    """Declare the options."""
    declared = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    declared.add_argument(
        "--part",
        action="append",
        default=[],
        metavar="NAME",
        help=f"only this one, may be given several times: {', '.join(NAMES)}",
    )
    declared.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (default: cuda)")
    declared.add_argument(
        "--small", action="store_true", help="a rehearsal: few layers, few cases, few rounds"
    )
    declared.add_argument(
        "--minutes", type=float, default=9.0, help="for everything together (default: 9)"
    )
    declared.add_argument(
        "--json",
        type=Path,
        default=ROOT / "logs" / "gpu.json",
        help="where the record goes (default: logs/gpu.json)",
    )
    return declared


def run(options: argparse.Namespace) -> int:
    """Run the parts asked for; the record is written after each."""
    started = time.monotonic()
    surroundings = look_around(options.device)
    for line in surroundings.notices:
        notice(line)
    runner = Runner(
        options=("--device", options.device, *(["--small"] if options.small else [])),
        total_s=60 * options.minutes,
        environment=surroundings.environment,
        removed=surroundings.removed,
    )
    chosen = [part for part in PARTS if part.name in (options.part or NAMES)]
    record: dict[str, Any] = {
        "command": " ".join([COMMAND, *runner.options, *(f"--part {p}" for p in options.part)]),
        "is_rehearsal": options.small,
        "date": datetime.now(UTC).date().isoformat(),
        "notices": surroundings.notices,
        "card_before": surroundings.card,
    }
    outcomes: list[Outcome] = []
    for outcome in runner.run_all([MACHINE, *chosen], started):
        outcomes.append(outcome)
        if outcome.part is MACHINE:
            if not outcome.rows:
                raise UserError(
                    f"{outcome.reason}; with another Python: make gpu PYTHON=..., without a GPU: "
                    f"{COMMAND} --device cpu --small"
                )
            record["machine"] = {k: v for k, v in outcome.rows[0].items() if k != "what"}
            record["hardware"] = outcome.rows[0]["hardware"]
        notice(progress(outcome))
        record["parts"] = {each.part.name: each.record() for each in outcomes[1:]}
        record |= {} if options.small else {"figures": figures(outcomes[1:])}
        record["seconds"] = round(time.monotonic() - started, 1)
        write_json_atomically(options.json, record)
    print_table(outcomes)
    wrong = [outcome.part.name for outcome in outcomes if not outcome.is_right]
    sys.stdout.write(
        f"{'a rehearsal: ' * options.small}{record['seconds']:.0f} s; {options.json}"
        + (f"; look at {', '.join(wrong)}" if wrong else "")
        + "\n"
    )
    return 1 if wrong else 0


def progress(outcome: Outcome) -> str:
    """Return one line about a part that has ended."""
    wrong = sum(not row.get("holds", True) for row in outcome.rows)
    words = f"{outcome.part.name}: {outcome.state}, {counted(len(outcome.rows), 'row')}"
    words += f", {wrong} of them wrong" if wrong else ""
    return f"{words}, {outcome.seconds:.0f} s" + (f": {outcome.reason}" if outcome.reason else "")


def figures(outcomes: Iterable[Outcome]) -> dict[str, str]:
    """Return what was measured in words, as the table of benchmarks/README.md shows it."""
    return {f"GPU: {row['what']}": row["result"] for each in outcomes for row in each.rows}


def print_table(outcomes: Sequence[Outcome]) -> None:
    """Print every row, and for what was not measured the reason."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("part", "what", "result", "holds"):
        table.add_column(name, overflow="fold")
    for outcome in outcomes:
        for row in outcome.rows:
            holds = {True: "yes", False: "NO"}[row["holds"]] if "holds" in row else ""
            table.add_row(outcome.part.name, row["what"], row["result"], holds)
        if outcome.reason is not None:
            failed = "NO" if outcome.state == "failed" else ""
            table.add_row(outcome.part.name, outcome.state, outcome.reason, failed)
    Console(highlight=False, width=WIDTH, markup=False).print(table)
