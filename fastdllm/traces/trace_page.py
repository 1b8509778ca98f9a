"""The denoising view as one HTML file that loads nothing: of one trace, or of two side by side.

`component_css` and `component_js` are the view itself (`window.DenoisingView`), for other pages.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from fastdllm.traces.palette import css_variables

if TYPE_CHECKING:
    from fastdllm.traces.record import Trace

_START = """
"use strict";
{
  const traces = JSON.parse(document.getElementById("traces").textContent);
  const view = DenoisingView(document.getElementById("view"));
  if (traces.length === 2) view.compare(...traces);
  else view.show(traces[0]);
  view.focus();
}
"""


def trace_page(trace: Trace) -> str:
    """Return the page of one trace as HTML."""
    return _page("Denoising view", [trace])


def compare_page(first: Trace, second: Trace) -> str:
    """Return the page of two traces, in step, with differing tokens marked, as HTML."""
    return _page("Denoising view, side by side", [first, second])


@cache
def component_css(dark: str | None = None) -> str:
    """Return the style of the view; every rule is below its class `dn`.

    dark: as of `css_variables`.
    """
    return css_variables(dark) + _asset("denoising.css")


@cache
def component_js() -> str:
    """Return the script that defines `window.DenoisingView`."""
    return _asset("denoising.js")


def _page(title: str, traces: list[Trace]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fastdllm.traces"),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    script = component_js() + _START
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    dumped = [trace.model_dump(mode="json", exclude_none=True) for trace in traces]
    return environment.get_template("trace_page.html").render(
        title=title,
        traces=traces,
        css=Markup(component_css()),
        script=Markup(script),
        digest=digest,
        data=Markup(_json(dumped)),
    )


def _asset(name: str) -> str:
    return (files("fastdllm.traces") / "assets" / name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """Return compact JSON in ASCII that cannot end the script element it stands in."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")
