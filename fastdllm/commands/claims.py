"""`fastdllm claims`: what was claimed before it was run, and what came out.

Tests the claims with the results in results/, or else in artifacts/; `fastdllm aggregate` publishes
the same as artifacts/<experiment>/claims.json.
"""

from __future__ import annotations

import argparse
import sys


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", nargs="?", help="only this one (default: all with claims)")


def run(args: argparse.Namespace) -> int:
    """Print the claims."""
    from fastdllm.common.errors import UserError
    from fastdllm.statistics.claims_text import claims_lines
    from fastdllm.workflow.claim_results import (
        claims_of,
        claims_path,
        claims_record,
        current_results,
        published_results,
    )
    from fastdllm.workflow.project.artifacts import SummaryReader
    from fastdllm.workflow.project.runs import load_project
    from fastdllm.workflow.project.selection import keep
    from fastdllm.workflow.registration import is_newest

    project, read = load_project(), SummaryReader()
    asked = [args.experiment] if args.experiment is not None else None
    chosen = keep("experiment", asked, project.experiments)
    found = [registered for registered in project.claims if registered.experiment in chosen]
    if not found:
        which = args.experiment or "no enabled experiment"
        raise UserError(f"{which} has no `claims:` in its experiment.yaml; see docs/claims.md")
    published = claims_of(project, published_results(project, read))
    done, lines = current_results(project, read), []
    for registered in found:
        record = claims_record(project, registered, done)
        lines += claims_lines(record)
        if record.waits is not None and record.registered and is_newest(record.registered):
            lines.append(
                "  results have to come from a later commit than the one that registers: git "
                "commit --allow-empty before you run them"
            )
        if registered.experiment not in published:
            path = claims_path(registered.experiment)
            lines.append(f"  not in {path} yet; fastdllm aggregate writes it")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
