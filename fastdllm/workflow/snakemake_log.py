"""What is left out of Snakemake's messages; with `--verbose` it prints all of them.

A dry run is asked for the table of runs, which Snakemake's description of every job would push off
the screen. The options of a profile cannot say that: they count for a real call as well, where
`--quiet rules` also hides which job failed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

# Warnings that are wrong here. A run that failed had no earlier summary to restore, or the
# Snakemake in its job has restored it; and no command of ours leaves an output half made, which is
# why profiles/default says keep-incomplete.
_GROUNDLESS = re.compile(r"Cannot restore .*: no backup found\.$|--keep-incomplete mode is set")


class Needed(logging.Filter):
    """Lets through what a user needs; of a dry run only warnings, errors and the count of jobs."""

    def __init__(self, *, is_dry_run: bool) -> None:
        super().__init__()
        self._is_dry_run = is_dry_run
        self._counts: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether Snakemake prints a message."""
        text = str(record.msg)
        if record.levelno == logging.WARNING:
            return _GROUNDLESS.match(text) is None
        if not self._is_dry_run or record.levelno != logging.INFO:
            return True
        # Snakemake counts the jobs before it describes them, and once more behind that.
        is_new = text not in self._counts
        self._counts.add(text)
        return is_new and text.startswith(("Job stats:", "Nothing to be done"))


def leave_out_needless(
    logger: logging.Logger, arguments: Sequence[str], *, is_dry_run: bool
) -> None:
    """Make Snakemake's logger print less, unless the call asks for more.

    Args:
        arguments: of `snakemake`. `-p` and `--verbose` on the command line ask for more; those of
            a profile are for real calls.
    """
    from snakemake.cli import get_argument_parser

    typed, _ = get_argument_parser().parse_known_args(list(arguments))
    if not (typed.verbose or (is_dry_run and typed.printshellcmds)):
        logger.addFilter(Needed(is_dry_run=is_dry_run))
