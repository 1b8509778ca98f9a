"""The page: one HTML file that loads nothing, with plots that Vega draws from specifications.

Tables and text are in the HTML itself, so that they can be read without scripts; plots, sorting and
the choice of items to read need scripts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup, escape

from fastdllm.report import plot_rows as rows
from fastdllm.report import plot_specs as charts
from fastdllm.report.content import Report, TaskReport
from fastdllm.report.groups import run_name
from fastdllm.report.page_tables import headings, origins, table_rows
from fastdllm.report.sensitivity_map import FEW_PASSES, MEASURES, SensitivityMap
from fastdllm.report.sentences import baseline_sentence, likelihood_sentence, main_sentences
from fastdllm.report.themes import config
from fastdllm.report.words import items_words, not_compared_sentences
from fastdllm.statistics.busy import TIMED_APART, busy_sentences
from fastdllm.statistics.claims_text import (
    claim_words,
    control_words,
    registration_words,
    result_words,
)
from fastdllm.statistics.disagreements import origin_sentences
from fastdllm.statistics.notices import notice_sentences
from fastdllm.statistics.ties import tie_sentences
from fastdllm.statistics.truncation import truncation_sentences
from fastdllm.statistics.twins import twin_sentences
from fastdllm.traces.page_links import LinkedAnswers
from fastdllm.version import __version__

# Vega, Vega-Lite and Vega-Embed are under the BSD 3-clause licence, which requires its notice.
LIBRARY_NOTICE = "/* Vega, Vega-Lite, Vega-Embed: (c) University of Washington, BSD 3-clause */\n"


def render_page(report: Report) -> str:
    """Return the whole page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fastdllm.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["breakable"] = _breakable
    environment.filters["inline_markdown"] = _inline_markdown
    environment.globals["sentences"] = _sentences
    environment.globals["claim_words"] = claim_words
    environment.globals["control_words"] = control_words
    environment.globals["registration_words"] = registration_words
    environment.globals["result_words"] = result_words
    environment.globals["items_of"] = lambda task: items_words(run.summary for run in task.runs)
    environment.globals["headings"] = headings
    environment.globals["table_rows"] = table_rows
    environment.globals["bars_of"] = rows.experiments_with_bars
    environment.globals["most_bars"] = rows.MOST_BARS
    measured = [run.timestamp for run in report.summaries]
    return environment.get_template("page.html").render(
        report=report,
        title="Accuracy against cost",
        version=__version__,
        newest=max(measured)[:10] if measured else "",
        origins=origins(report.summaries),
        css=Markup(_asset("page.css")),
        js=Markup(_asset("page.js")),
        library=Markup(LIBRARY_NOTICE + vega_bundle().replace("</script", "<\\/script")),
        data=Markup(_json(page_data(report))),
        sensitivity_measures=MEASURES,
        few_passes=FEW_PASSES,
        timed_apart=TIMED_APART,
    )


def page_data(report: Report) -> dict[str, Any]:
    """Return what the page's script draws: specifications once, rows by task."""
    return {
        "themes": {theme: config(theme) for theme in ("light", "dark")},
        "specs": {
            "pareto": {
                axis.key: charts.pareto(axis, report.experiments)
                for task in report.tasks
                for axis in task.axes
                if task.is_generation
            },
            "passes": charts.passes(rows.kind_names()),
            "tokens": charts.tokens_per_forward(),
            "confidences": charts.confidences(rows.CONFIDENCE_NAMES),
        },
        "tasks": {task.slug: _task_data(task) for task in report.tasks if task.is_generation},
        "sensitivity": _sensitivity_data(report.sensitivity),
    }


def _sentences(task: TaskReport) -> list[str]:
    """What the figures of a task show, in Markdown."""
    runs = [run.summary for run in task.runs]
    notes = not_compared_sentences(run.comparison for run in task.runs)
    notes += origin_sentences([task.baseline, *runs])
    notes += notice_sentences([task.baseline, *runs])
    if not task.is_generation:
        sentences = [likelihood_sentence(len(task.runs), len(task.distinct))]
        return [*sentences, *notes, *tie_sentences(runs)]
    baseline = baseline_sentence(task.baseline, run_name(task.baseline))
    findings = main_sentences(task.findings, task.speeds, run_name)
    notes += truncation_sentences(runs) + busy_sentences(runs) + twin_sentences(runs)
    return [baseline, *findings, *notes]


def _task_data(task: TaskReport) -> dict[str, Any]:
    return {
        "points": rows.pareto_points(task),
        "costs": {axis.key: axis.short for axis in task.axes},
        "views": {axis.key: rows.views(task, axis.key) for axis in task.axes},
        "bars": {name: rows.bars(task, name) for name in rows.experiments_with_bars(task)},
        "flips": _flips_data(task),
    }


def _flips_data(task: TaskReport) -> dict[str, Any]:
    """Pairs in their order; question, target and the baseline's answer once per item."""
    items: dict[int, list[str]] = {}
    pairs = []
    for name, flips in task.flips:
        for flip in flips.shown:
            items[flip.item] = [flip.question, flip.target, flip.before]
        shown = [
            [flip.item, int(flip.gained), flip.after, flip.first_step, flip.first_token]
            for flip in flips.shown
        ]
        pairs.append(
            {
                "name": name,
                "gained": flips.gained,
                "lost": flips.lost,
                "why_not": flips.why_not,
                "link": LinkedAnswers(*flips.decoded).link(),
                "shown": shown,
            }
        )
    return {"items": items, "pairs": pairs}


def _sensitivity_data(sensitivity: SensitivityMap | None) -> Mapping[str, Any]:
    if sensitivity is None:
        return {}
    return {
        field: charts.with_data(
            charts.layer_heat_map(title, sensitivity.layers, sensitivity.steps),
            cells=sensitivity.cells(field),
        )
        for field, title in MEASURES
    }


@cache
def vega_bundle() -> str:
    """Return Vega, Vega-Lite and Vega-Embed in one script, as vl-convert ships them."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def _asset(name: str) -> str:
    return (files("fastdllm.report") / "assets" / name).read_text(encoding="utf-8")


def _breakable(name: str) -> Markup:
    """Allow line breaks in a long name, after underscores."""
    return Markup("_<wbr>").join(name.split("_"))


def _inline_markdown(text: str) -> Markup:
    """Render `code` and **bold** as markup."""
    escaped = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", str(escape(text)))
    return Markup(re.sub(r"`(.+?)`", r"<code>\1</code>", escaped))


def _json(value: Any) -> str:
    """Return compact JSON that is safe in a script element."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c")
