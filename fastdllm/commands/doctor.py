"""`fastdllm doctor`: one line about each thing that runs depend on, with the fix.

Works on a log-in node and inside a job. Exit code 1 when something would stop runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print a record for programs")


def run(args: argparse.Namespace) -> int:
    from fastdllm.tools.doctor.examine import examine
    from fastdllm.tools.doctor.findings import State

    findings = examine()
    counts = Counter(finding.state for finding in findings)
    if args.json:
        record = {
            "schema_version": 1,
            "totals": {str(state): counts[state] for state in State},
            "findings": [asdict(finding) for finding in findings],
        }
        sys.stdout.write(json.dumps(record, indent=2) + "\n")
    else:
        totals = f"{counts[State.OK]} ok, {counts[State.WARN]} to look at, "
        lines = [*map(str, findings), f"{totals}{counts[State.PROBLEM]} in the way of runs"]
        sys.stdout.write("\n".join(lines) + "\n")
    return 1 if counts[State.PROBLEM] else 0
