"""`fastdllm doctor`: one line about each thing that runs depend on, with a fix.

Works on a log-in node and inside a job. Exit code 1 if something would stop runs.
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
    from fastdllm.tools.doctor.finding import Verdict

    findings = examine()
    counts = Counter(finding.state for finding in findings)
    if args.json:
        record = {
            "schema_version": 1,
            "totals": {str(state): counts[state] for state in Verdict},
            "findings": [asdict(finding) for finding in findings],
        }
        sys.stdout.write(json.dumps(record, indent=2) + "\n")
    else:
        totals = f"{counts[Verdict.OK]} ok, {counts[Verdict.WARN]} to look at, "
        lines = [*map(str, findings), f"{totals}{counts[Verdict.PROBLEM]} that stop runs"]
        sys.stdout.write("\n".join(lines) + "\n")
    return 1 if counts[Verdict.PROBLEM] else 0
