"""What an experiment found, in Markdown for its README: made of the summaries, and of nothing else.

Each configuration is compared item by item with plain decoding, and with the most accurate control
of `03_controls` that costs no more layer-forwards. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fastdllm.report.comparisons import CONTROL_EXPERIMENT, given, of_one_task
from fastdllm.report.standings import Found, found_in, is_no_loss
from fastdllm.report.words import accuracy_words, cost_words, difference_words, p_words, speed_words
from fastdllm.results.summary import DECODING, PARAMETERS, Summary
from fastdllm.statistics.costs import layer_forwards_per_answer, tokens_per_s
from fastdllm.statistics.intervals import items_needed
from fastdllm.statistics.verdicts import points

NOTHING = "No generation task of this experiment has published results.\n"


def answer_of(experiment: str, summaries: Sequence[Summary]) -> str:
    """The answer of one experiment, from the full published runs of all experiments."""
    parts = [_of_task(experiment, own, runs) for own, runs in _tasks(experiment, summaries)]
    return "\n".join(parts) or NOTHING


def headline(experiment: str, summaries: Sequence[Summary]) -> str:
    """The first point of an answer, on the first generation task."""
    for own, runs in _tasks(experiment, summaries):
        return _sentences(experiment, found_in(own, runs)[1])[0]
    return NOTHING.strip()


def _tasks(
    experiment: str, summaries: Sequence[Summary]
) -> Iterator[tuple[list[Summary], list[Summary]]]:
    """Of each generation task: the full runs of the experiment, and those of all experiments."""
    for (_, limit), runs in of_one_task(summaries).items():
        own = [run for run in runs if run.experiment == experiment and run.passes is not None]
        if limit is None and own:
            yield own, runs


def _of_task(experiment: str, own: Sequence[Summary], runs: Sequence[Summary]) -> str:
    plain, found = found_in(own, runs)
    parts = [
        f"**{plain.task}**, {plain.primary.n} items, `{plain.model_args.get('model_path', '')}`, "
        f"{plain.dtype}. Plain decoding: "
        f"{accuracy_words(plain)} at {cost_words(layer_forwards_per_answer(plain))} "
        "layer-forwards per answer.\n",
        "\n".join(f"- {sentence}" for sentence in _sentences(experiment, found)) + "\n",
        _table(found),
    ]
    return "\n".join(parts)


def _sentences(experiment: str, found: Sequence[Found]) -> list[str]:
    if not found:
        return ["Every configuration is plain decoding, or a control."]
    cheaper = [one for one in found if one.saved > 0]
    is_control = experiment == CONTROL_EXPERIMENT
    sentences = [_cheapest_control(cheaper) if is_control else _beaten(found), _faster(found)]
    lossless = [one for one in cheaper if is_no_loss(one)]
    sentences.append(
        _lossless(lossless[0])
        if lossless
        else "No configuration of fewer layer-forwards is without a loss of accuracy."
    )
    sentences += [*spans_compared(found), *added_to_lookahead(found)]
    dearer = len(found) - len(cheaper)
    if dearer:
        sentences.append(f"{dearer} of {len(found)} cost more layer-forwards than plain decoding.")
    return sentences


def _beaten(found: Sequence[Found]) -> str:
    """Does anything beat the thresholds and sub-blocks of the controls at equal cost?"""
    compared = [one for one in found if one.gain is not None]
    if not compared:
        return "No controls are published, so nothing can be said of equal cost."
    proved = [one for one in compared if one.is_proved]
    left = [one for one in compared if not one.is_proved]
    above = [one for one in left if (one.gain or 0) > 0]
    cheapest = [one for one in left if one.is_cheapest and one not in above]
    below = len(left) - len(above) - len(cheapest)
    start = "Yes" if proved else ("Not proved" if above or cheapest else "No")
    parts = [f"{len(proved)} of {len(compared)} beat the controls at equal layer-forwards"]
    if above:
        parts.append(f"{len(above)} lie above them within noise")
    if cheapest:
        parts.append(f"{len(cheapest)} are cheaper than every control and less accurate")
    if below:
        parts.append(f"{below} are not worth it")
    return f"**{start}**: {', '.join(parts)}.{_best_unproved(above, len(compared))}"


def _best_unproved(above: Sequence[Found], comparisons: int) -> str:
    """How many items would prove the best of those that lie above within noise."""
    if not above:
        return ""
    best = max(above, key=lambda one: one.gain or 0)
    paired = best.control.paired if best.control else None
    if paired is None:
        return ""
    needed = items_needed(paired.n, paired.only_a, paired.only_b, comparisons=comparisons)
    which = "the cheapest control, at lower cost" if best.is_cheapest else "its control"
    return (
        f" The best of these, `{best.names[0]}`, is {points(paired.difference)} above {which} "
        f"(p = {p_words(paired.p_value)}; corrected for {comparisons} comparisons "
        f"{p_words(paired.p_holm)}); {needed:,} items would prove a difference of that size."
    )


def _faster(found: Sequence[Found]) -> str:
    """The other half of the question: was any of it measurably faster?"""
    timed = [one for one in found if one.against_plain.speed is not None]
    if not timed:
        return "No speed was measured under the conditions of plain decoding."
    faster = [one for one in timed if one.is_faster]
    if not faster:
        return (
            f"None of {len(timed)} decoded measurably faster than plain decoding on this hardware."
        )
    best = max(faster, key=lambda one: one.against_plain.speed.value)  # type: ignore[union-attr]
    return (
        f"{len(faster)} of {len(timed)} decoded measurably faster than plain decoding on this "
        f"hardware, `{best.names[0]}` most: {speed_words(best.against_plain)}."
    )


def _lossless(best: Found) -> str:
    paired = best.against_plain.paired
    assert paired is not None
    needed = f"; {paired.n_needed:,} items would show it" if paired.n_needed else ""
    return (
        f"Fewest layer-forwards without a loss that was seen: `{best.names[0]}`, "
        f"{100 * best.saved:.0f} % fewer than plain decoding, "
        f"{difference_words(best.against_plain)} on {paired.n} items{needed}. "
        f"Decoded with {speed_words(best.against_plain)}."
    )


def _cheapest_control(cheaper: Sequence[Found]) -> str:
    if not cheaper:
        return "No control is cheaper than plain decoding."
    cheapest = cheaper[0]
    return (
        f"The cheapest control, `{cheapest.names[0]}`, saves {100 * cheapest.saved:.0f} % of the "
        f"layer-forwards: {cheapest.against_plain.verdict}."
    )


def _table(found: Sequence[Found]) -> str:
    lines = [
        "| configuration | accuracy | layer-forwards | tok/s | against plain decoding "
        "| best control of no higher cost | against it | p (Holm) |",
        "|---|--:|--:|--:|---|---|---|--:|",
    ]
    for one in found:
        names = ", ".join(f"`{name}`" for name in one.names[:3])
        if len(one.names) > 3:
            names += f" and {len(one.names) - 3} more"
        control = f"`{one.control.baseline.config}`" if one.control else ""
        if one.is_cheapest:
            control += " (cheapest)"
        speed = tokens_per_s(one.summary)
        cells = [
            names,
            f"{100 * one.summary.accuracy:.1f} %",
            f"{one.cost:.1f}",
            "" if speed is None or one.against_plain.speed is None else f"{speed:,.0f}",
            one.against_plain.verdict,
            control,
            difference_words(one.control),
            p_words(one.control.paired.p_holm) if one.control and one.control.paired else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


# Which span of layers loses least, and what reuse adds to look-ahead: sentences for an answer.
# Imports no torch.

# What two configurations must share to differ in their reuse alone.
REUSE = ("reuse_k", "layer_subset")


def spans_compared(found: Sequence[Found]) -> list[str]:
    """For each group of configurations that differ in the span alone: the spans by their loss."""
    groups: dict[str, list[Found]] = {}
    for one in found:
        if _setting(one, "reuse_k", 1) > 1:
            key = _shared(one, without=("layer_subset",))
            groups.setdefault(key, []).append(one)
    sentences = []
    for same in groups.values():
        if len(same) < 2:
            continue
        parts = [
            f"{_span(one)} {points(one.loss)} for {100 * one.saved:.1f} %"
            for one in sorted(same, key=lambda one: one.loss)
        ]
        title = _title(same[0])
        sentences.append(
            f"Loss of accuracy for layer-forwards saved, by span, {title}: {'; '.join(parts)}."
        )
    return sentences


def added_to_lookahead(found: Sequence[Found]) -> list[str]:
    """The least harmful reuse on top of look-ahead, beside the same look-ahead without it."""
    plain = {
        _shared(one, without=REUSE): one
        for one in found
        if _setting(one, "reuse_k", 1) == 1 and _setting(one, "lookahead_depth", 0) > 0
    }
    pairs = [
        (one, plain[key])
        for one in found
        if _setting(one, "reuse_k", 1) > 1 and (key := _shared(one, without=REUSE)) in plain
    ]
    if not pairs:
        return []
    best, alone = min(pairs, key=lambda pair: pair[0].loss)
    return [
        f"Reuse on top of look-ahead, at its best: `{best.names[0]}` "
        f"{100 * best.summary.accuracy:.1f} % at {best.cost:.1f} layer-forwards, against "
        f"{100 * alone.summary.accuracy:.1f} % at {alone.cost:.1f} without reuse "
        f"(`{alone.names[0]}`)."
    ]


def _shared(one: Found, *, without: Sequence[str]) -> str:
    """Settings and parameters but those named: what computations of one group have in common."""
    settings = {k: v for k, v in given(one.summary, DECODING).items() if k not in without}
    return repr((settings, given(one.summary, PARAMETERS)))


def _setting(one: Found, name: str, default: int) -> int:
    return int(given(one.summary, DECODING).get(name, default))


def _span(one: Found) -> str:
    return f"`{given(one.summary, DECODING).get('layer_subset')}`"


def _title(one: Found) -> str:
    parts = [f"k = {_setting(one, 'reuse_k', 1)}"]
    if depth := _setting(one, "lookahead_depth", 0):
        parts.append(f"look-ahead depth {depth}")
    parts += [f"{name} {value}" for name, value in given(one.summary, PARAMETERS).items()]
    return ", ".join(parts)
