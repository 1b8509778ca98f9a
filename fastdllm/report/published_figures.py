"""Which published figures stand beside a run: those of the same model, task and settings.

A figure of other settings, or of settings that its source does not say, stands beside no run, and
none beside a limited run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastdllm.records.published import Published, published
from fastdllm.records.summary import Summary
from fastdllm.report.groups import deviations, key_of, settings_of
from fastdllm.tools.estimate.hardware import is_of_kind

NOTE = "published: figures of others, not measured here:"


def figures_of(summary: Summary, every: Sequence[Published] | None = None) -> tuple[Published, ...]:
    """Return the published figures that fit a run; `every`: to choose from, default all."""
    if key_of(summary)[2] is not None:
        return ()
    return tuple(one for one in (published() if every is None else every) if _fits(one, summary))


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
    if (one.model, one.figure.task) != (summary.decides.get("model"), summary.task):
        return False
    if one.settings is None or one.n_items not in (None, summary.eval_params.get("n_items")):
        return False
    asked = {key: summary.decides.get(key) for key in one.figure.asked}
    return (
        _are_settings_of(summary, one.settings)
        # None: what the task's file says, which is how it was published.
        and all(asked[key] in (None, value) for key, value in one.figure.asked.items())
        and one.figure.dtype in (None, summary.dtype)
    )


def _are_settings_of(summary: Summary, settings: Mapping[str, Any]) -> bool:
    """Whether a run was decoded with `settings`, and as in plain decoding otherwise."""
    given = settings_of(summary)
    if summary.passes is None:  # of log-likelihoods only the blocks of the prompt depend on them
        return given.get("block_size") == settings.get("block_size", given.get("block_size"))
    is_same = all(given.get(name) == value for name, value in settings.items())
    # The block cache changes no accuracy according to the paper, which does not say where it is on.
    return is_same and not deviations(summary).keys() - settings.keys() - {"use_block_cache"}


def _is_same_condition(one: Published, summary: Summary) -> bool:
    figure = one.figure
    names = {hardware.name for hardware in summary.hardware}
    return (
        figure.hardware is not None
        and all(is_of_kind(name, figure.hardware) for name in names)
        and figure.batch_size in (None, summary.eval_params.get("batch_size"))
    )
