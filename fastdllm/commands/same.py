"""`fastdllm same`: write the summary of a run that is the same computation as another.

The workflow's rule `same` runs it. Reads and writes files only.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """The run that was decoded, and the spec of the run to make."""
    parser.add_argument("leader", type=Path, help="results/<experiment>/<task>/<config> decoded")
    parser.add_argument("spec", type=Path, help="spec.json of the run that is the same")


def run(args: argparse.Namespace) -> int:
    """Make the result of one run from another's."""
    from fastdllm.runs.spec import read_spec
    from fastdllm.workflow.copied_results import write_copy

    folder = args.spec.parent
    summary = write_copy(args.leader, folder, read_spec(args.spec))
    primary = summary.primary
    sys.stdout.write(f"{primary.metric} {summary.accuracy:.4f} -> {folder / 'summary.json'}\n")
    return 0
