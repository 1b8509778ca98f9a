"""Which published figures stand beside a run: those of the same model, task and settings.

A figure of other settings, or of settings that its source does not say, stands beside no run, and
none beside a limited run or one of an edited task. records/published.py says when one fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fastdllm.records.published import Published, published
from fastdllm.records.summary import Summary
from fastdllm.report.groups import deviations, key_of
from fastdllm.tools.estimate.hardware import is_of_kind

NOTE = "published: figures of others, not measured here:"


def figures_of(summary: Summary, every: Sequence[Published] | None = None) -> tuple[Published, ...]:
    """Return the published figures that fit a run; `every`: to choose from, default all."""
    if key_of(summary)[2] is not None:
        return ()
    model = summary.decides.get("model")
    of_model = (one for one in (published() if every is None else every) if one.model == model)
    return tuple(one for one in of_model if _fits(one, summary))


def accuracies(figures: Iterable[Published]) -> list[float]:
    """Return published accuracies in percent, in the order of the file."""
    return [one.figure.accuracy for one in figures if one.figure.accuracy is not None]


def speeds(figures: Iterable[Published], summary: Summary) -> list[float]:
    """Return published tokens/s on the run's kind of GPU, at its batch size or an unknown one."""
    return [
        one.figure.tokens_per_s
        for one in figures
        if one.figure.tokens_per_s is not None and _is_same_condition(one, summary)
    ]


def figures_text(values: Sequence[float]) -> str:
    """Return the cell of a column "published": "83.7", of several sources "83.7, 80.44"."""
    return ", ".join(f"{value:g}" for value in values)


def published_sentences(summaries: Iterable[Summary]) -> list[str]:
    """Return one sentence that names setting, metric and source of all figures shown."""
    shown = dict.fromkeys(
        one.words
        for summary in summaries
        for one in figures_of(summary)
        if one.figure.accuracy is not None or speeds([one], summary)
    )
    return [f"{NOTE} {'. '.join(shown)}."] if shown else []


def _fits(one: Published, summary: Summary) -> bool:
    """Whether a whole run has the setting of a figure, and is plain decoding otherwise."""
    generates, params = summary.passes is not None, summary.eval_params
    # The block cache changes no accuracy according to the paper, which does not say where it is on.
    stated = {*(one.settings or {}), "use_block_cache"}
    return (
        one.is_asked_in(summary.decides, params.get("task_definition"))
        and one.is_decoded_in(summary.decides, generates=generates)
        and not (generates and deviations(summary).keys() - stated)
        and one.task is not None
        and one.task.n_items == params.get("n_items")
        and one.figure.dtype in (None, summary.dtype)
    )


def _is_same_condition(one: Published, summary: Summary) -> bool:
    figure = one.figure
    names = {hardware.name for hardware in summary.hardware}
    return (
        figure.hardware is not None
        and all(is_of_kind(name, figure.hardware) for name in names)
        and figure.batch_size in (None, summary.eval_params.get("batch_size"))
    )
