"""`fastdllm power`: how many items the claims of an experiment need.

From results of the same configs on another task, or from shares that are given.
"""

from __future__ import annotations

import argparse
import sys


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", help="one with `claims:`")
    parser.add_argument("--task", help="take what differs from results of the configs on this task")
    parser.add_argument(
        "--discordance", type=float, metavar="SHARE", help="items right in one of both only"
    )
    parser.add_argument(
        "--difference", type=float, metavar="SHARE", help="the true difference (default: 0)"
    )
    parser.add_argument(
        "--power", type=float, help="wanted power (default: the planned one, or 0.9)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the items that each claim needs."""
    from fastdllm.common.errors import UserError
    from fastdllm.statistics.needed_items import Assumed, Seen, needed_lines
    from fastdllm.workflow.claim_results import current_results, seen_on
    from fastdllm.workflow.project.runs import load_project
    from fastdllm.workflow.project.selection import keep

    if (args.task is None) == (args.discordance is None):
        raise UserError(
            "give either --task, with results of the same configs, or --discordance (such as 0.04)"
        )
    project = load_project()
    keep("experiment", [args.experiment], project.experiments)
    registered = next((r for r in project.claims if r.experiment == args.experiment), None)
    if registered is None:
        raise UserError(
            f"{args.experiment} has no `claims:` in its experiment.yaml; see docs/claims.md"
        )
    planned = registered.planned
    power = args.power or (planned.power if planned is not None else 0.9)
    if not 0 < power < 1:
        raise UserError(f"--power {power}: must be between 0 and 1")
    assumed: Assumed | Seen
    if args.task is not None:
        if args.difference is not None:
            raise UserError("--difference goes with --discordance; a task has its own differences")
        assumed = seen_on(project, registered, args.task, current_results(project))
        source = f"what differs on {args.task}"
    else:
        assumed = Assumed(args.discordance, args.difference or 0.0)
        source = f"{100 * args.discordance:g} % of items that differ"
    lines = [f"{args.experiment}: items for a power of {100 * power:g} %, from {source}"]
    n = planned.n if planned is not None else None
    lines += needed_lines(registered.claims, assumed, power=power, planned_n=n)
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
