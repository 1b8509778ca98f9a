"""Tables of an experiment: Markdown and CSV for artifacts/, and plain text for a terminal.

Throughput is compared only within one hardware, dtype and batch size; other rows are marked. What
was not measured is left empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from fastdllm.common.files import write_text_atomically
from fastdllm.records.result_files import TABLE_KEYS, table_mark
from fastdllm.records.summary import Summary
from fastdllm.report.csv_tables import csv_table
from fastdllm.report.groups import (
    PASS_KINDS,
    Group,
    grouped,
    is_dirty,
    layer_forwards_saved,
    passes_per_answer,
)
from fastdllm.report.published_figures import (
    accuracies,
    figures_of,
    figures_text,
    published_sentences,
    speeds,
)
from fastdllm.report.words import (
    items_words,
    markdown_rows,
    not_compared_sentences,
    verdict_words,
)
from fastdllm.statistics.busy import TIMED_APART, busy_sentences, was_busy
from fastdllm.statistics.costs import layer_forwards_per_answer, speed_conditions
from fastdllm.statistics.disagreements import disagreements, origin_sentences
from fastdllm.statistics.notices import notice_sentences
from fastdllm.statistics.ties import is_tied, tie_sentences
from fastdllm.statistics.truncation import is_marked, truncation_sentences
from fastdllm.statistics.verdicts import signed

HEADINGS = {
    "config": "config",
    "accuracy": "acc %",
    "interval": "95 % int.",
    "published": "published",
    "difference": "diff.",
    "tokens_per_forward": "tok/fwd",
    "prefill": "prefill",
    "full_block": "full",
    "sub_block": "sub",
    "commit": "commit",
    "reused": "reused",
    "saved": "skipped",
    "layer_forwards": "layer-fwd",
    "tokens_per_s": "tok/s",
    "published_speed": "published tok/s",
    "verdict": "against the baseline",
}
TEXT_COLUMNS = ("config", "verdict")
# Columns that are left out of a narrow terminal, in this order.
LEAST_IMPORTANT = (
    *("verdict", "prefill", "commit", "layer_forwards", "sub_block", "full_block", "interval"),
    *("reused", "difference", "published_speed", "published"),
)
OTHER_CONDITIONS, BUSY, DIRTY, DOUBTFUL = "*", "~", "+", "!"


def write_tables(
    experiments: Sequence[str],
    summaries: Sequence[Summary],
    artifacts_folder: Path | str,
    *,
    withheld: Mapping[str, str] = MappingProxyType({}),
) -> list[Path]:
    """Write <experiment>/table.md and table.csv for each experiment; rows keep their order.

    If there are tables of an experiment that has no summaries now, they are replaced by empty ones.

    Args:
        withheld: tasks with claims that are not all run yet, each with the line to show instead.
    """
    written = []
    groups = grouped(summaries)
    for experiment in experiments:
        of_experiment = [group for group in groups if group.experiment == experiment]
        folder = Path(artifacts_folder) / experiment
        if not of_experiment and not (folder / "table.md").exists():
            continue
        for name, text in (
            ("table.md", markdown_table(experiment, of_experiment, withheld)),
            ("table.csv", csv_table([g for g in of_experiment if g.task not in withheld])),
        ):
            write_text_atomically(folder / name, text)
            written.append(folder / name)
    return written


def markdown_table(
    experiment: str, groups: Sequence[Group], withheld: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Return a section per task; the last line identifies the summaries it was made from.

    withheld: as for `write_tables`.
    """
    parts = [f"# {experiment}\n"]
    if not groups:
        parts.append("No run of the current settings is published.\n")
    for group in groups:
        if group.task in withheld:
            parts.append(f"## {group.title}\n\n{withheld[group.task]}\n")
            continue
        rows = _rows(group)
        headings = {HEADINGS[key]: "---" if key in TEXT_COLUMNS else "--:" for key in rows[0]}
        lines = "\n".join(markdown_rows(headings, [row.values() for row in rows]))
        notes = "\n".join(f"- {note}" for note in _notes(group))
        parts.append(f"## {group.title}\n\n{_caption(group)}\n\n{lines}\n\n{notes}\n")
    summaries = [summary for group in groups for summary in group.summaries]
    mark = table_mark(summary.model_dump(include=set(TABLE_KEYS)) for summary in summaries)
    return "\n".join([*parts, f"{mark}\n"])


def terminal_table(groups: Sequence[Group], width: int = 80) -> str:
    """Return aligned plain text, without the least important columns if `width` is too small."""
    parts = []
    for group in groups:
        rows = [HEADINGS, *_rows(group)]
        keys = list(rows[1])
        widths = {key: max(len(row[key]) for row in rows) for key in keys}
        hidden = []
        for key in LEAST_IMPORTANT:
            if sum(widths[k] + 2 for k in keys) - 2 > width and key in keys:
                keys.remove(key)
                hidden.append(HEADINGS[key])
        lines = [f"{group.experiment}: {group.title}", _caption(group), ""]
        for row in rows:
            cells = [
                row[k].ljust(widths[k]) if k in TEXT_COLUMNS else row[k].rjust(widths[k])
                for k in keys
            ]
            lines.append("  ".join(cells).rstrip())
        lines += ["", *_notes(group)]
        if hidden:
            lines.append(f"(hidden in this narrow window: {', '.join(hidden)})")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _rows(group: Group) -> list[dict[str, str]]:
    """Return the cells of every row by column; a difference only if at least one run has it."""
    rows = []
    figures = [figures_of(summary) for summary in group.summaries]
    speeds_of = [speeds(some, run) for some, run in zip(figures, group.summaries, strict=True)]
    has_published, has_published_speed = any(map(accuracies, figures)), any(speeds_of)
    has_differences = any(group.comparisons)
    for index, (summary, comparison) in enumerate(group.compared):
        cells = _cells(group, summary)
        if has_published:
            cells["published"] = figures_text(accuracies(figures[index]))
        if has_published_speed:
            cells["published_speed"] = figures_text(speeds_of[index])
        if has_differences:
            paired = comparison.paired if comparison else None
            refused = "-" if comparison and comparison.is_refused else ""
            cells["difference"] = signed(paired.difference) if paired else refused
            cells["verdict"] = verdict_words(comparison) or "the baseline"
        rows.append({key: cells[key] for key in HEADINGS if key in cells})
    return rows


def _cells(group: Group, summary: Summary) -> dict[str, str]:
    """Return one row as text, without columns that no run of the group can have."""
    interval = summary.primary.interval
    cells = {
        "config": summary.config + (f" {DIRTY}" if is_dirty(summary) else ""),
        "accuracy": f"{100 * summary.accuracy:.1f}"
        + (DOUBTFUL if is_marked(summary.truncation_rate) or is_tied(summary) else ""),
        "interval": f"{100 * interval[0]:.1f}-{100 * interval[1]:.1f}" if interval else "",
    }
    if not group.is_generation:
        return cells
    saved, speed = layer_forwards_saved(summary), summary.throughput
    forwards = layer_forwards_per_answer(summary)
    passes = passes_per_answer(summary)
    mark = "" if speed_conditions(summary) == group.usual_conditions else OTHER_CONDITIONS
    mark += BUSY if was_busy(summary) else ""
    tokens_per_forward = summary.tokens_per_forward
    return cells | {
        "tokens_per_forward": "" if tokens_per_forward is None else f"{tokens_per_forward:.2f}",
        **{kind: f"{passes[kind]:.1f}" if passes else "" for kind in PASS_KINDS},
        "saved": "" if saved is None else f"{100 * saved:.0f} %",
        "layer_forwards": "" if forwards is None else f"{forwards:.1f}",
        "tokens_per_s": f"{speed.tokens_per_s:,.0f}{mark}" if speed else "",
    }


def _caption(group: Group) -> str:
    primary = group.summaries[0].primary
    what = f"{primary.metric} ({primary.filter})" if primary.filter != "none" else primary.metric
    return f"{what}, {items_words(group.summaries)}; {', '.join(group.usual_conditions)}"


def _notes(group: Group) -> list[str]:
    """Return what a reader must know to compare the rows."""
    notes = disagreements([summary.model_dump(mode="json") for summary in group.summaries])
    if group.is_generation:
        notes.append(
            "Passes and layer-forwards are means per answer; skipped is the share of its own "
            "layer-forwards that a run left out."
        )
    else:
        notes.append(
            "Log-likelihood task: nothing is decoded, so decoding settings do not touch it; equal "
            "rows are expected."
        )
    if any(group.comparisons):
        notes.append(
            f"diff.: points to {group.baseline.experiment}/{group.baseline.config}, paired item by "
            "item; what is shown holds beside all comparisons of the experiment (max-T)."
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
    notes += [f"{BUSY} {text}" for text in busy_sentences(group.summaries)]
    if any(summary.throughput for summary in group.summaries):
        notes.append(f"tok/s: {TIMED_APART}.")
    notes += published_sentences(group.summaries)
    notes += not_compared_sentences(group.comparisons)
    notes += origin_sentences([group.baseline, *group.summaries])
    notes += notice_sentences([group.baseline, *group.summaries])
    doubts = truncation_sentences(group.summaries) + tie_sentences(group.summaries)
    notes += [f"{DOUBTFUL} {text}" for text in doubts]
    if any(is_dirty(summary) for summary in group.summaries):
        notes.append(f"{DIRTY} made with uncommitted changes in the project.")
    return notes
