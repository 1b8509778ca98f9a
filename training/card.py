"""The tables of the model card, made from the committed JSON files.

`models/tiny/README.md` has one generated part, between two markers; everything else in it is
written by hand. Figures come from `training_log.json` and `measurements.json` beside the card.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fastdllm.common.errors import UserError
from fastdllm.common.files import read_json, write_text_atomically

BEGIN = "<!-- figures: begin (made by python -m training.measure) -->"
END = "<!-- figures: end -->"
# Enough rows of the loss curve to see its shape.
LOSS_STEPS = 500


def update_card(folder: Path) -> None:
    """Replace the generated part of `folder`/README.md.

    Raises:
        UserError: the card lacks the markers.
    """
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise UserError(f"{path}: the markers of the generated part are missing: {BEGIN} ... {END}")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    figures = render_figures(
        read_json(folder / "training_log.json"), read_json(folder / "measurements.json")
    )
    write_text_atomically(path, f"{before}{BEGIN}\n\n{figures}\n{END}{after}")


def render_figures(log: dict[str, Any], measured: dict[str, Any]) -> str:
    """The generated part of the card, in Markdown."""
    choice = measured["choice"]
    minutes, threads = log["training_time_s"] / 60, log["threads"]
    sections = [
        f"Training: {minutes:.1f} minutes, {threads} thread{'s' * (threads > 1)} on "
        f"{log['machine']}, "
        f"torch {log['torch']}; seed {log['recipe']['seed']}; {log['parameters']:,} parameters.\n",
        *_task_sections("word problems", measured["word_problems"]),
        *_task_sections("multi-step problems", measured["multi_step_problems"]),
        "A reused pass runs no layer, so every span of layers gives the same tokens.\n",
        f"### Multiple choice\n\n{_percent(choice['accuracy'])} % of {choice['items']} held-out "
        "items; guessing gives 25 %.\n",
        "### Loss during training, in nats per predicted token\n",
        _loss_table(log["losses"]),
    ]
    if "curve" in measured:
        sections += [
            "\n### Accuracy % during block diffusion, threshold 0.9\n",
            table(
                ("step", "word problems", "multi-step problems"),
                (
                    (
                        row["step"],
                        _percent(row["word_problems"]["accuracy"]),
                        _percent(row["multi_step_problems"]["accuracy"]),
                    )
                    for row in measured["curve"]
                ),
            ),
        ]
    return "\n".join(sections)


def _task_sections(title: str, figures: dict[str, Any]) -> Iterator[str]:
    """Yield the tables of a task whose answers are written."""
    head = ("accuracy %", "steps right %", "tokens per forward", "forwards per answer")
    plain = figures["no_block_cache"]
    yield f"### {title.capitalize()}\n"
    yield f"{figures['items']} held-out ones, block cache on.\n"
    yield table(
        ("threshold", *head),
        ((f"{row['threshold']:g}", *_decoding_cells(row)) for row in figures["threshold"]),
    )
    yield (
        f"\nWithout the block cache, at threshold 0.9: {_percent(plain['accuracy'])} % at "
        f"{plain['tokens_per_forward']:.2f} tokens per forward. Output-mode reuse, threshold 0.9:\n"
    )
    yield table(
        ("k", *head, "reused per answer"),
        (
            (row["reuse_k"], *_decoding_cells(row), f"{row['reused_per_answer']:.1f}")
            for row in figures["reuse"]
        ),
    )
    yield ""


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _decoding_cells(row: dict[str, float]) -> tuple[str, ...]:
    return (
        _percent(row["accuracy"]),
        _percent(row["steps_right"]),
        f"{row['tokens_per_forward']:.2f}",
        f"{row['forwards_per_answer']:.1f}",
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _loss_table(losses: list[dict[str, Any]]) -> str:
    """Mean losses over each stretch of steps, by kind of batch."""
    stretches: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for entry in losses:
        upper = -(-entry["step"] // LOSS_STEPS) * LOSS_STEPS
        stretches.setdefault((entry["phase"], upper), []).append(entry)
    kinds = ("words", "multi_step", "drill")
    rows = []
    for (phase, _), entries in stretches.items():
        cells = []
        for kind in kinds:
            values = [entry[kind] for entry in entries if kind in entry]
            cells.append(f"{sum(values) / len(values):.3f}" if values else "")
        rows.append((phase.replace("_", " "), f"to {entries[-1]['step']}", *cells))
    return table(("phase", "steps", "words", "multi-step", "drill"), rows)
