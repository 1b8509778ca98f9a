"""The plots as Vega-Lite specifications: built once, drawn on the page and in the image files.

A specification is shared and never changed. It names its data (`points`, `curve`, ...), and
`with_data` adds the rows. Colours come from themes.py, so that one serves light and dark.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, cast

import altair as alt

from fastdllm.report.axes import Axis
from fastdllm.report.standings import Standing
from fastdllm.report.themes import CONFIDENCE_COLOURS, PASS_COLOURS

Spec = dict[str, Any]

# All are filled paths, even those that look like outlines, so marks and legend need no other rule.
RING = "M1 0A1 1 0 1 1 -1 0A1 1 0 1 1 1 0M.58 0A.58 .58 0 1 0 -.58 0A.58 .58 0 1 0 .58 0Z"
CROSS = "M-.9-.6L-.6-.9L0-.3L.6-.9L.9-.6L.3 0L.9 .6L.6 .9L0 .3L-.6 .9L-.9 .6L-.3 0Z"
HOLLOW_TRIANGLE = "M0-1.1L1.05 .8L-1.05 .8ZM0-.4L-.48 .46L.48 .46Z"
DASH = "M-1-.28L1-.28L1 .28L-1 .28Z"
HOLLOW_SQUARE = "M-.9-.9L.9-.9L.9 .9L-.9 .9ZM-.5-.5L-.5 .5L.5 .5L.5-.5Z"
SHAPES = {
    Standing.ABOVE: "circle",
    Standing.WITHIN_NOISE: RING,
    Standing.UNKNOWN: HOLLOW_TRIANGLE,
    Standing.NO_GAIN: DASH,
    Standing.DOMINATED: CROSS,
    Standing.CONTROL: "diamond",
    Standing.NO_CONTROL: HOLLOW_SQUARE,
}
ROW_HEIGHT = 20


@cache
def pareto(axis: Axis, experiments: tuple[str, ...]) -> Spec:
    """Accuracy against one cost: data `points`, and `curve`, clipped to the window.

    The parameters `left`, `right`, `low` and `high` set the window (see pareto.py). No mark is
    clipped or translucent as a whole: either would take a second per image.

    Args:
        axis: its key is the field that holds the cost, with `_low` and `_high` for its interval.
        experiments: all that may occur, in the order of their colours.
    """
    cost, label = axis.key, axis.title
    limits = [alt.param(name=name, value=0) for name in ("left", "right", "low", "high")]
    x_scale, y_scale = (
        alt.Scale(domain=cast(Any, [{"expr": a}, {"expr": b}]), nice=False, zero=False)
        for a, b in (("left", "right"), ("low", "high"))
    )

    def y(field: str) -> alt.Y:
        marks = alt.Axis(title="accuracy, %", tickCount=6)
        return alt.Y(f"{field}:Q", scale=y_scale, axis=marks)

    x = alt.X(f"{cost}:Q", title=label, scale=x_scale, axis=alt.Axis(tickCount=7))
    against = "against the controls, at equal layer-forwards"
    legend: dict[str, Any] = {"orient": "bottom", "columns": 2, "symbolOpacity": 1}
    colour = alt.Color(
        "experiment:N",
        scale=alt.Scale(domain=list(experiments)),
        legend=alt.Legend(title="experiment", symbolType="square", **legend),
    )
    shape = alt.Shape(
        "standing:N",
        scale=alt.Scale(
            domain=[str(standing) for standing in Standing],
            range=[SHAPES[standing] for standing in Standing],
        ),
        legend=alt.Legend(title=against, labelLimit=320, **legend),
    )
    hover = alt.selection_point(name="hover", on="pointerover", clear="pointerout", empty=False)
    every = alt.Chart(alt.NamedData(name="curve"))
    curve = every.transform_filter("isValid(datum.accuracy)").encode(x=x, y=y("accuracy"))
    points = (
        alt.Chart(alt.NamedData(name="points"))
        .transform_filter(
            f"isValid(datum.{cost}) && inrange(datum.{cost}, [left, right]) && "
            "inrange(datum.accuracy, [low, high])"
        )
        .transform_calculate(
            bottom="max(datum.low, low)",
            top="min(datum.high, high)",
            start=f"max(datum.{cost}_low, left)",
            end=f"min(datum.{cost}_high, right)",
        )
    )
    sideways = points.transform_filter(f"isValid(datum.{cost}_low)")
    crossed = f"datum.standing === '{Standing.DOMINATED}'"
    baseline = points.transform_filter("datum.is_baseline").encode(y=y("accuracy"))
    layers = [
        curve.mark_area(style="below", aria=False).encode(y2="floor:Q"),
        curve.mark_area(style="control-band", aria=False).encode(y=y("low"), y2="high:Q"),
        baseline.mark_rule(style="baseline", aria=False),
        baseline.mark_text(
            style="baseline-label", x="width", dx=6, align="left", aria=False
        ).encode(text=alt.value("baseline")),
        curve.mark_line(style="control-line", aria=False).encode(y=y("line")),
        points.mark_rule(strokeWidth=1.3, aria=False).encode(
            x=x,
            y=y("bottom"),
            y2="top:Q",
            color=colour,
            strokeOpacity=alt.condition(crossed, alt.value(0.25), alt.value(0.55)),
        ),
        sideways.mark_rule(strokeWidth=1.3, aria=False).encode(
            x=alt.X("start:Q", title=label, scale=x_scale),
            x2="end:Q",
            y=y("accuracy"),
            color=colour,
            strokeOpacity=alt.condition(crossed, alt.value(0.25), alt.value(0.55)),
        ),
        points.mark_point(filled=True, strokeWidth=0, cursor="pointer")
        .encode(
            x=x,
            y=y("accuracy"),
            color=colour,
            shape=shape,
            fillOpacity=alt.condition(crossed, alt.value(0.65), alt.value(1)),
            size=alt.condition(hover, alt.value(300), alt.value(120)),
            tooltip=[
                alt.Tooltip("run:N", title="title"),
                alt.Tooltip("accuracy_text:N", title="accuracy"),
                alt.Tooltip(f"{cost}:Q", title=label, format=",.4~g"),
                alt.Tooltip("standing:N", title=against),
                alt.Tooltip("difference:N", title="to baseline"),
                alt.Tooltip("verdict:N", title="verdict"),
                alt.Tooltip("same:N", title="same as"),
            ],
            description="description:N",
        )
        .add_params(hover),
        every.transform_filter("isValid(datum.label)")
        .mark_text(style="control-label", dy=13, dx=4, align="left", aria=False)
        .encode(x=x, y=y("at"), text="label:N"),
    ]
    chart = alt.layer(*layers).add_params(*limits)
    return _spec(chart, height=430)


@cache
def passes(kinds: tuple[str, ...]) -> Spec:
    """Passes per answer by kind, one bar per configuration: data `passes`."""
    return _bars(
        "passes",
        "passes per answer",
        alt.X("value:Q", title="passes per answer", axis=alt.Axis(tickCount=6)),
        names=kinds,
        colours=PASS_COLOURS,
        value_format=".2f",
    )


@cache
def tokens_per_forward() -> Spec:
    """Generated tokens per forward evaluation: data `tokens`."""
    base = alt.Chart(alt.NamedData(name="tokens")).encode(
        x=alt.X("value:Q", title="tokens per forward", axis=alt.Axis(tickCount=5)),
        y=_row_axis(),
        tooltip=[alt.Tooltip("row:N", title="title"), alt.Tooltip("value:Q", format=".2f")],
    )
    bars = base.mark_bar(color="#4d9bd6", height=alt.RelativeBandSize(0.72))
    labels = base.mark_text(style="value", align="left", dx=4, aria=False).encode(
        text=alt.Text("value:Q", format=".2f")
    )
    return _spec(alt.layer(bars, labels), height=bars_height(1))


@cache
def confidences(names: tuple[str, ...]) -> Spec:
    """Confidence of the committed tokens, as shares of all: data `confidences`."""
    return _bars(
        "confidences",
        "confidence",
        alt.X(
            "value:Q",
            title="share of committed tokens",
            axis=alt.Axis(format="%", tickCount=5),
            scale=alt.Scale(domain=[0, 1]),
        ),
        names=names,
        colours=CONFIDENCE_COLOURS,
        value_format=".2%",
    )


def layer_heat_map(title: str, layers: int, steps: Mapping[str, int]) -> Spec:
    """One measure of the sensitivity run, layer by denoising step: data `cells`.

    steps: how many passes were measured, by name of the step.
    """
    counts = json.dumps({step: f"{passes:,}" for step, passes in steps.items()})
    x_axis = alt.Axis(labelAngle=0, labelExpr=f"[datum.label, {counts}[datum.label]]")
    chart = (
        alt.Chart(alt.NamedData(name="cells"))
        .mark_rect()
        .encode(
            x=alt.X(
                "step:O", title="denoising step in its block, with its passes", axis=x_axis
            ).scale(domain=list(steps)),
            y=alt.Y("layer:O", title="layer").scale(domain=list(range(layers))[::-1]),
            color=alt.Color(
                "value:Q",
                legend=alt.Legend(title=None, orient="top", gradientLength=180, format=".0%"),
            ),
            fillOpacity=alt.condition("datum.is_faded", alt.value(0.3), alt.value(1)),
            tooltip=[
                alt.Tooltip("layer:O"),
                alt.Tooltip("step:O"),
                alt.Tooltip("value:Q", title=title, format=".1%"),
                alt.Tooltip("passes:Q", format=","),
            ],
        )
    )
    return _spec(chart, height=max(180, 15 * layers))


def with_data(spec: Spec, **datasets: Sequence[Mapping[str, Any]]) -> Spec:
    """Return the specification with the rows of its named data."""
    return spec | {"datasets": {name: list(rows) for name, rows in datasets.items()}}


def bars_height(rows: int) -> int:
    """Return the height of a bar chart's inner part, in pixels."""
    return ROW_HEIGHT * rows


def _bars(
    data: str,
    what: str,
    x: alt.X,
    *,
    names: Sequence[str],
    colours: Mapping[str, Sequence[str]],
    value_format: str,
) -> Spec:
    order = {name: index for index, name in enumerate(names)}
    chart = (
        alt.Chart(alt.NamedData(name=data))
        .mark_bar(height=alt.RelativeBandSize(0.72))
        .encode(
            x=x,
            y=_row_axis(),
            color=alt.Color(
                "part:N",
                scale=alt.Scale(domain=list(order), range=list(colours["light"])),
                legend=alt.Legend(title=None, orient="top", columns=2, symbolType="square"),
            ),
            order=alt.Order("part_order:Q"),
            tooltip=[
                alt.Tooltip("row:N", title="title"),
                alt.Tooltip("part:N", title=what),
                alt.Tooltip("value:Q", title="value", format=value_format),
            ],
        )
    )
    spec = _spec(chart, height=bars_height(1))
    # For the page: a range of colours cannot be part of a configuration.
    spec["usermeta"] = {"dark_range": list(colours["dark"])}
    return spec


def _row_axis() -> alt.Y:
    return alt.Y(
        "row:N", sort=None, title=None, axis=alt.Axis(domain=False, ticks=False, labelPadding=6)
    )


def _spec(chart: Any, *, height: int) -> Spec:
    spec: Spec = chart.properties(width="container", height=height).to_dict(validate=True)
    spec.pop("config", None)  # Altair's own default; ours is in themes.py
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    return spec
