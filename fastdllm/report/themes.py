"""Colours and fonts of the plots, light and dark; those of the page are in assets/page.css.

Experiments use the Okabe-Ito palette, which colour-blind readers can distinguish (M. Okabe and
K. Ito, "Color universal design", 2008), made lighter for a dark background.
"""

from __future__ import annotations

from typing import Any

from fastdllm.traces import palette

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif"
# Passes that run layers go from dark (a whole block) to light (few tokens); reuse has another hue.
PASS_COLOURS = {
    "light": ["#8a8f98", "#0b4f8a", "#4d9bd6", "#b3b8c0", "#e07b00"],
    "dark": ["#7d838d", "#3f8fd2", "#8cc4ee", "#5b616b", "#ffa94d"],
}
CONFIDENCE_COLOURS = {
    "light": list(palette.BY_CONFIDENCE),
    "dark": ["#ff6b61", "#f58a5f", "#f0ae72", "#d8c08c", "#7fa6c2", "#5b96c6", "#3f86d0"],
}
_LIGHT = {
    "ground": "#ffffff",
    "ink": "#1c2330",
    "soft": "#5a6372",
    "line": "#dde1e7",
    "control": "#3b4454",
    "heat": ["#fef0d9", "#fdcc8a", "#fc8d59", "#e34a33", "#a30d0d"],
    "experiments": [
        *("#0072b2", "#d55e00", "#009e73", "#b8609a", "#b07d00", "#3d9bd1", "#6a51a3", "#5f6b7a"),
    ],
}
_DARK = {
    "ground": "#151a22",
    "ink": "#e8ebf0",
    "soft": "#a3acba",
    "line": "#2c3440",
    "control": "#c3cad6",
    "heat": ["#1e2530", "#4a2f2a", "#8a3f2c", "#d9603a", "#ffc09a"],
    "experiments": [
        *("#4fb3f0", "#ff8f4a", "#3fd0a3", "#ec9dcf", "#ecbb4a", "#8ed0f5", "#b8a3f0", "#a9b4c2"),
    ],
}


def config(theme: str) -> dict[str, Any]:
    """Return the Vega-Lite configuration of the theme `light` or `dark`."""
    colours = _LIGHT if theme == "light" else _DARK
    soft, ink, line = colours["soft"], colours["ink"], colours["line"]
    return {
        "background": colours["ground"],
        "font": FONT,
        "view": {"stroke": None},
        "range": {"category": colours["experiments"], "heatmap": colours["heat"]},
        "title": {"color": ink, "fontSize": 14, "anchor": "start", "subtitleColor": soft},
        "axis": {
            "labelColor": soft,
            "titleColor": ink,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "titlePadding": 10,
            "gridColor": line,
            "domainColor": line,
            "tickColor": line,
            "labelLimit": 220,
        },
        "legend": {
            "labelColor": ink,
            "titleColor": soft,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "symbolBaseFillColor": soft,
            "symbolBaseStrokeColor": soft,
            "labelLimit": 260,
            "titleLimit": 400,
        },
        # By default Vega-Lite gives the whole mark an opacity.
        "area": {"opacity": 1},
        "point": {"opacity": 1},
        "text": {"color": ink, "fontSize": 11},
        "style": {
            "control-line": {"color": colours["control"], "strokeWidth": 2},
            "control-label": {"color": colours["control"], "fontSize": 11, "fontWeight": 600},
            "control-band": {"color": colours["control"], "fillOpacity": 0.13},
            "below": {"color": colours["control"], "fillOpacity": 0.07},
            "baseline": {"color": soft, "strokeDash": [5, 4]},
            "baseline-label": {"color": soft, "fontSize": 11, "fontStyle": "italic"},
            "value": {"color": soft, "fontSize": 11},
        },
    }
