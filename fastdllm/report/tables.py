"""Tables of an experiment: Markdown and CSV in artifacts/, and plain text for a terminal.

Throughput is compared only within one hardware, dtype and batch size; other rows are marked. What
was not measured stays empty. Imports no torch.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from fastdllm.evaluation.results import TABLE_KEYS, disagreements, table_mark
from fastdllm.evaluation.summary import Summary
from fastdllm.files import write_text_atomically
from fastdllm.report.figures import (
    PASS_KINDS,
    Group,
    grouped,
    is_dirty,
    layer_forwards_saved,
    passes_per_answer,
    speed_conditions,
)

HEADINGS = {
    "config": "config",
    "accuracy": "acc %",
    "interval": "95 % int.",
    "tokens_per_forward": "tok/fwd",
    "prefill": "prefill",
    "full_block": "full",
    "sub_block": "sub",
    "commit": "commit",
    "reused": "reused",
    "saved": "saved",
    "tokens_per_s": "tok/s",
}
# Left out first where a terminal is too narrow for all columns.
LEAST_IMPORTANT = ("prefill", "commit", "sub_block", "full_block", "interval")
OTHER_CONDITIONS, DIRTY = "*", "+"


def write_tables(
    experiments: Sequence[str], summaries: Sequence[Summary], artifacts_folder: Path | str
) -> list[Path]:
    """Write <experiment>/table.md and table.csv for each experiment; rows keep their order.

    One without summaries gets a table that says so where an old one would go on showing its rows.
    """
    written = []
    groups = grouped(summaries)
    for experiment in experiments:
        own = [group for group in groups if group.experiment == experiment]
        folder = Path(artifacts_folder) / experiment
        if not own and not (folder / "table.md").exists():
            continue
        for name, text in (
            ("table.md", markdown_table(experiment, own)),
            ("table.csv", csv_table(own)),
        ):
            write_text_atomically(folder / name, text)
            written.append(folder / name)
    return written


def markdown_table(experiment: str, groups: Sequence[Group]) -> str:
    """One section per task; the last line says which summaries the table was made from."""
    parts = [f"# {experiment}\n"]
    if not groups:
        parts.append("No run of the current settings is published.\n")
    for group in groups:
        rows = [_cells(group, summary) for summary in group.summaries]
        keys = list(rows[0])
        lines = ["| " + " | ".join(HEADINGS[key] for key in keys) + " |"]
        lines.append("|" + "|".join("---" if key == "config" else "--:" for key in keys) + "|")
        lines += ["| " + " | ".join(row[key] for key in keys) + " |" for row in rows]
        notes = "\n".join(f"- {note}" for note in _notes(group))
        parts.append(
            f"## {group.title}\n\n{_caption(group)}\n\n" + "\n".join(lines) + f"\n\n{notes}\n"
        )
    summaries = [summary for group in groups for summary in group.summaries]
    mark = table_mark(summary.model_dump(include=set(TABLE_KEYS)) for summary in summaries)
    return "\n".join([*parts, f"{mark}\n"])


def terminal_table(groups: Sequence[Group], width: int = 80) -> str:
    """Aligned plain text; the least important columns go where `width` is too small for all."""
    parts = []
    for group in groups:
        rows = [dict(HEADINGS), *(_cells(group, summary) for summary in group.summaries)]
        keys = [key for key in HEADINGS if key in rows[1]]
        widths = {key: max(len(row[key]) for row in rows) for key in keys}
        dropped = []
        for key in LEAST_IMPORTANT:
            if sum(widths[k] + 2 for k in keys) - 2 > width and key in keys:
                keys.remove(key)
                dropped.append(HEADINGS[key])
        lines = [f"{group.experiment}: {group.title}", _caption(group), ""]
        for row in rows:
            cells = [
                row[k].ljust(widths[k]) if k == "config" else row[k].rjust(widths[k]) for k in keys
            ]
            lines.append("  ".join(cells).rstrip())
        lines += ["", *_notes(group)]
        if dropped:
            lines.append(f"(hidden in this narrow window: {', '.join(dropped)})")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def csv_table(groups: Sequence[Group]) -> str:
    """Every figure as a plain number (shares in 0..1, seconds, GiB); not measured is empty."""
    columns = [
        *("experiment", "task", "limit", "config", "metric", "accuracy", "ci_low", "ci_high"),
        *("n_items", "tokens_per_forward", *(f"{kind}_per_answer" for kind in PASS_KINDS)),
        *("layer_forwards_computed", "layer_forwards_skipped", "tokens_per_s"),
        *("tokens_generated", "total_time_s", "latency_p50_s", "latency_p95_s"),
        *("truncation_rate", "peak_memory_gib", "hardware", "dtype", "batch_size"),
        *("smallest_batch_size", "out_of_memory"),
        *("git_commit", "git_dirty", "fingerprint"),
    ]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n", restval="")
    writer.writeheader()
    for group in groups:
        for summary in group.summaries:
            row = _csv_row(summary) | {"limit": group.limit}
            writer.writerow({key: "" if value is None else value for key, value in row.items()})
    return stream.getvalue()


def _csv_row(summary: Summary) -> dict[str, object]:
    primary, passes, speed = summary.primary, summary.passes, summary.throughput
    low, high = primary.interval or (None, None)
    hardware, dtype, _ = speed_conditions(summary)
    return {
        "experiment": summary.experiment,
        "task": summary.task,
        "config": summary.config,
        "metric": f"{primary.metric},{primary.filter}",
        "accuracy": summary.accuracy,
        "ci_low": low,
        "ci_high": high,
        "n_items": primary.n,
        "tokens_per_forward": summary.tokens_per_forward,
        **{f"{kind}_per_answer": round(n, 4) for kind, n in passes_per_answer(summary).items()},
        "layer_forwards_computed": passes.layer_forwards_computed if passes else None,
        "layer_forwards_skipped": passes.layer_forwards_skipped if passes else None,
        "tokens_per_s": speed.tokens_per_s if speed else None,
        "tokens_generated": speed.tokens_generated if speed else None,
        "total_time_s": speed.total_time_s if speed else None,
        "latency_p50_s": summary.latency_s.p50 if summary.latency_s else None,
        "latency_p95_s": summary.latency_s.p95 if summary.latency_s else None,
        "truncation_rate": summary.truncation_rate,
        "peak_memory_gib": summary.peak_memory.gib,
        "hardware": hardware,
        "dtype": dtype,
        "batch_size": summary.eval_params["batch_size"],
        "smallest_batch_size": summary.eval_params.get("smallest_batch_size"),
        "out_of_memory": summary.out_of_memory,
        "git_commit": summary.git.commit if summary.git else None,
        "git_dirty": int(summary.git.dirty) if summary.git else None,
        "fingerprint": summary.fingerprint,
    }


def _cells(group: Group, summary: Summary) -> dict[str, str]:
    """One row as text; columns that no run of the group can have are left out."""
    interval = summary.primary.interval
    cells = {
        "config": summary.config + (f" {DIRTY}" if is_dirty(summary) else ""),
        "accuracy": f"{100 * summary.accuracy:.1f}",
        "interval": f"{100 * interval[0]:.1f}-{100 * interval[1]:.1f}" if interval else "",
    }
    if not group.is_generation:
        return cells
    saved, speed = layer_forwards_saved(summary), summary.throughput
    passes = passes_per_answer(summary)
    mark = "" if speed_conditions(summary) == group.usual_conditions else OTHER_CONDITIONS
    tokens_per_forward = summary.tokens_per_forward
    return cells | {
        "tokens_per_forward": "" if tokens_per_forward is None else f"{tokens_per_forward:.2f}",
        **{kind: f"{passes[kind]:.1f}" if passes else "" for kind in PASS_KINDS},
        "saved": "" if saved is None else f"{100 * saved:.0f} %",
        "tokens_per_s": f"{speed.tokens_per_s:,.0f}{mark}" if speed else "",
    }


def _caption(group: Group) -> str:
    primary = group.summaries[0].primary
    what = f"{primary.metric} ({primary.filter})" if primary.filter != "none" else primary.metric
    return f"{what}, {primary.n} items; {', '.join(group.usual_conditions)}"


def _notes(group: Group) -> list[str]:
    """What a reader must know to compare the rows."""
    notes = disagreements([summary.model_dump(mode="json") for summary in group.summaries])
    if group.is_generation:
        notes.append(
            "Passes are means per answer; saved is the share of layer-forwards that were skipped."
        )
    else:
        notes.append(
            "Log-likelihood task: nothing is decoded, so decoding settings do not touch it; equal "
            "rows are expected."
        )
    others = {
        ", ".join(speed_conditions(summary))
        for summary in group.summaries
        if speed_conditions(summary) != group.usual_conditions and summary.throughput
    }
    if others:
        notes.append(
            f"{OTHER_CONDITIONS} measured under other conditions ({'; '.join(sorted(others))}): "
            "not comparable in tok/s."
        )
    if any(is_dirty(summary) for summary in group.summaries):
        notes.append(f"{DIRTY} made with uncommitted changes in the project.")
    return notes
