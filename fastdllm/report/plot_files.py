"""The plots of the page as SVG and PNG files, from the same specifications.

Drawn by vl-convert in the light theme, without a browser.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fastdllm.common.files import cannot, write_text_atomically
from fastdllm.report import plot_rows as rows
from fastdllm.report import plot_specs as charts
from fastdllm.report.content import Report, TaskReport
from fastdllm.report.sensitivity_map import MEASURES
from fastdllm.report.themes import config

WIDTH, BARS_WIDTH = 760, 300
# Pixels of a PNG per pixel of the plot.
SCALE = 1.25
SUFFIXES = (".svg", ".png")


def write_plots(report: Report, folder: Path) -> list[Path]:
    """Write every plot into `folder`, and remove other plots that an earlier report left there."""
    import vl_convert

    # Made even without any plot, as the workflow waits for it.
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, spec in plots(report):
        svg = vl_convert.vegalite_to_svg(dict(spec))
        png = vl_convert.svg_to_png(svg, scale=SCALE)
        write_text_atomically(folder / f"{name}.svg", svg)
        _write_bytes(folder / f"{name}.png", png)
        written += [folder / f"{name}{suffix}" for suffix in SUFFIXES]
    for path in folder.glob("*"):
        if path.suffix in SUFFIXES and path not in written:
            path.unlink()
    return written


def plots(report: Report) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield name and specification of every plot, such as `word_problems_pareto_seconds_1`."""
    for task in report.tasks:
        if not task.is_generation:
            continue
        yield from _pareto(report, task)
        for experiment, count in rows.experiments_with_bars(task).items():
            yield f"{task.slug}_decoding_{experiment}", _bars(task, experiment, count)
    if report.sensitivity is not None:
        for field, title in MEASURES:
            spec = charts.layer_heat_map(title, report.sensitivity.layers, report.sensitivity.steps)
            cells = report.sensitivity.cells(field)
            yield f"sensitivity_{field}", _finished(spec, title, cells=cells)


def _pareto(report: Report, task: TaskReport) -> Iterator[tuple[str, Mapping[str, Any]]]:
    points = rows.pareto_points(task)
    for axis in task.axes:
        for name, view in rows.views(task, axis.key).items():
            spec = charts.pareto(axis, report.experiments)
            params = [
                param | ({"value": view[param["name"]]} if param["name"] in view else {})
                for param in spec["params"]
            ]
            title = [f"{task.title}: accuracy against {axis.title}"]
            hidden = view["hidden"]
            subtitle = [f"near the baseline; {hidden} more lie outside"] if hidden else []
            yield (
                f"{task.slug}_pareto_{axis.key}{'' if name == 'all' else '_close'}",
                _finished(
                    spec | {"params": params},
                    {"text": title, "subtitle": subtitle},
                    points=points,
                    curve=view["curve"],
                ),
            )


def _bars(task: TaskReport, experiment: str, count: int) -> charts.Spec:
    """Return the three bar charts of an experiment side by side."""
    datasets = rows.bars(task, experiment)
    parts = {
        "passes": (charts.passes(rows.kind_names()), "passes by kind"),
        "tokens": (charts.tokens_per_forward(), "tokens per forward"),
        "confidences": (charts.confidences(rows.CONFIDENCE_NAMES), "confidence of tokens"),
    }
    shown = []
    for name, (spec, words) in parts.items():
        if datasets[name]:
            height = charts.bars_height(count)
            part = spec | {"title": words, "width": BARS_WIDTH, "height": height}
            shown.append({k: v for k, v in part.items() if k not in ("autosize", "$schema")})
    return {
        "$schema": charts.passes(())["$schema"],
        "hconcat": shown,
        "resolve": {"scale": {"color": "independent"}},
        "title": f"{task.title}, {experiment}",
        "config": config("light"),
        "padding": 12,
        "datasets": datasets,
    }


def _finished(spec: charts.Spec, title: object, **datasets: rows.Rows) -> charts.Spec:
    chart = charts.with_data(spec, **datasets)
    chart |= {"width": WIDTH, "title": title, "config": config("light"), "padding": 12}
    chart.pop("autosize")
    return chart


def _write_bytes(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise cannot("write", path, error) from None
