"""The figures of a benchmark as tables for people; the JSON line holds the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

Figures = Mapping[str, Any]


def title_line(record: Figures) -> str:
    """Return one line: what was measured on what."""
    shortest, longest = record["prompt_tokens"]
    prompts = f"{shortest}" if shortest == longest else f"{shortest}-{longest}"
    parts = [
        f"{record['model']} ({record['dtype']})",
        record["hardware"],
        f"threads: {record['threads']}",
        f"prompts of {prompts} tokens, answers of {record['max_new_tokens']}",
        f"threshold {record['threshold']:g}",
        f"{record['repeats']} repeats",
    ]
    return " | ".join(parts)


def speed_table(runs: Sequence[Figures]) -> Table:
    """Speed, times of answers, memory, and the share of the floor, per batch size."""
    names = ("batch", "slots", "tokens/s", "range", "tok/fwd", "first ms", "p50 s", "p95 s")
    table = _table("Answers", [*names, "GiB", "floor", "differ"])
    for run in runs:
        differing = run.get("share_differing_from_batch_1")
        table.add_row(
            str(run["batch"]),
            str(run["slots"]),
            f"{run['tokens_per_s']:,.0f}",
            f"{run['tokens_per_s_lowest']:,.0f}-{run['tokens_per_s_highest']:,.0f}",
            f"{run['tokens_per_forward']:.2f}",
            f"{1000 * run['time_to_first_token_p50_s']:.0f}",
            f"{run['latency_p50_s']:.2f}",
            f"{run['latency_p95_s']:.2f}",
            f"{run['peak_memory_gib']:.2f}",
            f"{run['share_of_floor']:.0%}",
            "" if differing is None else f"{differing:.0%}",
        )
    return table


def pass_table(runs: Sequence[Figures]) -> Table:
    """Passes per second: those of the engine, and those of sequences by kind."""
    kinds = list(dict.fromkeys(kind for run in runs for kind in run["sequence_passes_per_s"]))
    names = ("batch", "passes/s", "ms/pass", "in passes")
    table = _table("Passes", [*names, *(f"{kind}/s" for kind in kinds)])
    for run in runs:
        by_kind = run["sequence_passes_per_s"]
        table.add_row(
            str(run["batch"]),
            f"{run['passes_per_s']:,.1f}",
            f"{run['ms_per_pass']:.2f}",
            f"{run['share_of_time_in_passes']:.0%}",
            *(f"{by_kind[kind]:,.1f}" if kind in by_kind else "" for kind in kinds),
        )
    return table


def mixed_table(rows: Sequence[Figures]) -> Table:
    """Continuous batching over fixed batches."""
    names = ["batch", "continuous", "fixed", "ratio", "of floors", "passes", "fixed passes"]
    table = _table("Requests of mixed length, tokens/s", names)
    for row in rows:
        table.add_row(
            str(row["batch"]),
            f"{row['tokens_per_s_continuous']:,.0f}",
            f"{row['tokens_per_s_fixed']:,.0f}",
            f"{row['ratio']:.2f}",
            f"{row['ratio_of_floors']:.2f}",
            f"{row['passes_continuous']:,}",
            f"{row['passes_fixed']:,}",
        )
    return table


def profile_table(seconds: Mapping[str, float]) -> Table:
    """Where the time of a profiled run went."""
    table = _table("Time by group", ["group", "ms", "share"])
    total = sum(seconds.values())
    for group, spent_s in seconds.items():
        table.add_row(group, f"{1000 * spent_s:,.1f}", f"{spent_s / total:.0%}")
    return table


def notes(runs: Sequence[Figures]) -> list[str]:
    """Explain the columns of the first two tables, and what they are based on."""
    lines = [
        "first: median time to the first token; first, p50 and p95 count from the entry into a "
        "slot.",
        "passes/s: of the engine, each with the rows of all sequences in flight; the kinds count "
        "sequences.",
    ]
    bounds = ", ".join(dict.fromkeys(run["floor_bound"] for run in runs))
    timed = max(run["floor_passes_timed"] for run in runs)
    lines.append(
        f"floor: least time of the passes over the time of the run, bound by {bounds}; based on "
        f"up to {timed} different passes of a run."
    )
    if any("share_differing_from_batch_1" in run for run in runs):
        compared = min(r["answers_compared_with_batch_1"] for r in runs if r["batch"] != 1)
        lines.append(f"differ: answers unlike those of batch 1, of {compared}.")
    return lines


def rounded(value: Any) -> Any:
    """Return the record with fractions at five significant digits, more than a clock gives."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def _table(title: str, names: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None)
    for index, name in enumerate(names):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=True)
    return table
