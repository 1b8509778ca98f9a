"""A measurement as text for a terminal: heat maps, the best spans, the line to paste."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from fastdllm.statistics.intervals import wilson_interval
from fastdllm.tools.sensitivity.layer_spans import (
    MeasuredSpan,
    best_by_width,
    least_damage,
    named_spans,
)
from fastdllm.tools.sensitivity.sensitivity_record import MOST_STEPS, Grid, SensitivityRecord

CELL = 5
# From good to bad: readable with black text, so in light and dark terminals.
COLOURS = ((166, 217, 150), (254, 224, 139), (253, 174, 97), (239, 108, 90))


def render(record: SensitivityRecord, saving: float) -> Iterator[RenderableType]:
    """Yield all parts in order; `saving`: the least share that the chosen span saves, 0..1."""
    yield describe_measurement(record)
    yield text_heat_map(
        "passes that commit other tokens when the layer is replaced, %",
        record.token_changed,
        passes=record.passes,
    )
    for title, grid in (
        ("relative change of the layer's input, %", record.input_change),
        ("relative change of its output minus input, %", record.delta_change),
    ):
        yield text_heat_map(title, grid)
    yield span_table(record)
    yield from chosen_span(record, saving)


def describe_measurement(record: SensitivityRecord) -> Text:
    """One line: what was measured on what."""
    parts = [
        f"{record.model}: {record.n_items} calibration items ({record.data})",
        f"{sum(record.passes)} sub-block passes",
        *(f"{name} {value}" for name, value in record.decoding.items()),
        record.dtype,
        record.hardware,
    ]
    return Text(" | ".join(parts), style="dim")


def text_heat_map(title: str, grid: Grid, *, passes: Sequence[int] | None = None) -> Text:
    """Rows are layers, columns the denoising steps in the block; values in 0..1 in per cent.

    passes: number of passes of each column, shown below.
    """
    steps = len(grid[0])
    text = Text(f"\n{title}\n", style="bold")
    labels = [str(step) for step in range(steps)]
    if steps == MOST_STEPS:
        labels[-1] += "+"
    text.append("step".ljust(7) + "".join(label.rjust(CELL) for label in labels), style="dim")
    for layer, row in enumerate(grid):
        text.append(f"\nlayer{layer:>2}", style="not bold dim")
        for value in row:
            if value is None:
                text.append("·".rjust(CELL), style="not bold dim")
                continue
            text.append(f"{100 * min(value, 9.99):{CELL}.0f}", style=_style(value))
    if passes is not None:
        text.append("\npasses ", style="not bold dim")
        text.append("".join(f"{n:{CELL}}" for n in passes), style="not bold dim")
    return text


def _style(value: float) -> Style:
    place = min(max(value, 0.0), 1.0) * (len(COLOURS) - 1)
    below = min(int(place), len(COLOURS) - 2)
    share = place - below
    mixed = [
        round(low + share * (high - low))
        for low, high in zip(COLOURS[below], COLOURS[below + 1], strict=True)
    ]
    return Style(color="black", bgcolor=f"rgb({mixed[0]},{mixed[1]},{mixed[2]})", bold=False)


def span_table(record: SensitivityRecord) -> Table:
    """The best span of each width, and the named ones."""
    n, names = sum(record.passes), named_spans(record.layers)
    table = Table(
        title="\nleast damage per width",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
    )
    for name in ("layers", "saving %", "damage %", "95 % interval", "layer_subset"):
        table.add_column(name, justify="left" if name == "layer_subset" else "right")
    rows = [(span, str(list(span.layers))) for span in best_by_width(record.spans)]
    rows += [
        (span, name)
        for name, layers in names.items()
        for span in record.spans
        if span.layers == layers
    ]
    for span, subset in rows:
        low, high = wilson_interval(round(span.damage * n), n)
        table.add_row(
            _layers(span),
            f"{100 * span.saving:.0f}",
            f"{100 * span.damage:.1f}",
            f"{100 * low:.1f} to {100 * high:.1f}",
            subset,
        )
    return table


def chosen_span(record: SensitivityRecord, saving: float) -> Iterator[Text]:
    """The span of least damage that saves enough, as it is written in an experiment.yaml."""
    best = least_damage(record.spans, saving)
    assert best is not None, "the span of all layers saves everything"
    yield Text(
        f"\nLeast damage at a saving of {100 * saving:g} % of a pass or more: layers "
        f"{_layers(best)}, which save {100 * best.saving:.0f} % and change the tokens of "
        f"{100 * best.damage:.1f} % of {sum(record.passes)} passes. In experiment.yaml:\n"
    )
    start, stop = best.layers
    yield Text(f"    layer_subset: [{start}, {stop}]", style="bold")


def _layers(span: MeasuredSpan) -> str:
    start, stop = span.layers
    return str(start) if stop == start + 1 else f"{start}-{stop - 1}"
