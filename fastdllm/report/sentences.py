"""What the runs of a task show, in the same sentences on the page and in the READMEs.

Made from summaries and measured speeds alone. These are estimates and intervals: what was claimed
before it was tested stands elsewhere (claims). The text is Markdown, of which the page renders
`code` and **bold**.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from fastdllm.common.console import counted
from fastdllm.records.claims_record import ClaimsRecord
from fastdllm.records.speed_record import SpeedRecord
from fastdllm.records.summary import Summary
from fastdllm.report.groups import (
    Group,
    by_task,
    deviations,
    grouped,
    parameters_of,
    settings_of,
)
from fastdllm.report.standings import ExperimentFinding, Standing, findings_of
from fastdllm.report.words import (
    accuracy_words,
    cost_words,
    difference_words,
    markdown_rows,
    names_words,
    not_compared_sentences,
)
from fastdllm.statistics.busy import busy_sentences
from fastdllm.statistics.claims_text import (
    claim_words,
    control_words,
    registration_words,
    result_words,
)
from fastdllm.statistics.comparison import Comparison
from fastdllm.statistics.costs import layer_forwards_per_answer, position_forwards_per_answer
from fastdllm.statistics.disagreements import origin_sentences
from fastdllm.statistics.intervals import items_needed
from fastdllm.statistics.notices import notice_sentences
from fastdllm.statistics.speed_between import ratios_between
from fastdllm.statistics.speed_text import how_measured
from fastdllm.statistics.truncation import truncation_sentences
from fastdllm.statistics.twins import twin_sentences
from fastdllm.statistics.verdicts import detection_words, p_words, points

NOTHING = "No generation task of this experiment has published results.\n"
# Settings in which two configurations may differ that differ in their reuse alone.
REUSE = ("reuse_k", "layer_subset")

NameOf = Callable[[Summary], str]


def answer_of(
    experiment: str,
    summaries: Sequence[Summary],
    speeds: Sequence[SpeedRecord],
    claims: Sequence[ClaimsRecord] = (),
) -> str:
    """Return the answer of one experiment for its README, from what is published of all."""
    parts = [_claims_of(record) for record in claims if record.experiment == experiment]
    parts += [
        _answer_on_task(group, findings, speeds)
        for group, findings in _full_runs(experiment, summaries)
    ]
    return "\n".join(parts) or NOTHING


def headline(
    experiment: str,
    summaries: Sequence[Summary],
    speeds: Sequence[SpeedRecord],
    claims: Sequence[ClaimsRecord] = (),
) -> str:
    """Return what came of its claims, or the first sentence on the first generation task."""
    for record in claims:
        if record.experiment == experiment:
            results = (f"{claim_words(r.claim)}: **{r.verdict}**" for r in record.results)
            return f"{'; '.join(results)}."
    for _, findings in _full_runs(experiment, summaries):
        return main_sentences(findings, speeds)[0]
    return NOTHING.strip()


def _claims_of(record: ClaimsRecord) -> str:
    lines = [f"**Claims**, {registration_words(record).removeprefix('claims ')}."]
    if record.planned is not None:
        planned = record.planned
        lines[0] += f" Planned: {planned.n:,} items, power {100 * planned.power:.0f} %."
    if record.waits is not None:
        lines[0] += f" {record.waits}."
    lines.append("")
    for result in record.results:
        claim = result.claim
        lines.append(f"- {claim.id}. {claim_words(claim)}: **{result_words(result)}**")
        lines += [f"  - {control_words(result.claim, control)}" for control in result.controls]
    return "\n".join([*lines, "", "All that follows is exploratory.", ""])


def baseline_sentence(baseline: Summary, name: str) -> str:
    """Describe the run that the others are compared with."""
    primary, accuracy = baseline.primary, accuracy_words(baseline)
    is_share = primary.interval_method == "wilson"
    right = f"right on {accuracy} of" if is_share else f"{primary.metric} {accuracy} on"
    return (
        f"Baseline `{name}`: {right} {primary.n:,} items at "
        f"{cost_words(layer_forwards_per_answer(baseline))} layer-forwards per answer."
    )


def main_sentences(
    findings: Sequence[ExperimentFinding],
    speeds: Sequence[SpeedRecord],
    name_of: NameOf = lambda run: run.config,
) -> list[str]:
    """Return what is above the controls, what was timed, and what is cheaper without a loss."""
    if not findings:
        return ["There is nothing to compare beside the baseline and controls."]
    ideas = [finding for finding in findings if not finding.is_control]
    return [
        _ideas_beside_controls(ideas, name_of) if ideas else _cheapest_control(findings, name_of),
        _seconds(findings, speeds, name_of),
        _fewest_without_loss(findings, name_of),
    ]


def _baseline_words(findings: Sequence[ExperimentFinding]) -> str:
    """What the runs are compared with, which need not be plain decoding."""
    deviates = any(deviations(finding.to_baseline.baseline) for finding in findings)
    return "the baseline" if deviates else "plain decoding"


def likelihood_sentence(n_runs: int, n_computations: int) -> str:
    """Explain why the runs of a log-likelihood task do not differ."""
    nothing = "Answers are chosen by likelihood: nothing is decoded"
    if n_runs == 1:
        return f"{nothing}."
    computations = "1 computation" if n_computations == 1 else f"{n_computations} computations"
    return (
        f"{nothing}, so decoding settings have no effect on this task. {n_runs} configurations are "
        f"{computations}; equal figures are expected and say nothing about reuse."
    )


def _full_runs(
    experiment: str, summaries: Sequence[Summary]
) -> Iterator[tuple[Group, list[ExperimentFinding]]]:
    """Yield the experiment's group and findings on each generation task without a limit."""
    for groups in by_task(grouped(summaries)).values():
        findings = findings_of(groups)
        for group in groups:
            if group.experiment == experiment and group.limit is None and group.is_generation:
                yield group, findings[experiment]


def _answer_on_task(
    group: Group, findings: Sequence[ExperimentFinding], speeds: Sequence[SpeedRecord]
) -> str:
    baseline = group.baseline
    sentences = [
        *main_sentences(findings, speeds),
        *spans_compared(findings),
        *added_to_lookahead(findings),
    ]
    n_costlier = sum(finding.saved <= 0 for finding in findings)
    if n_costlier:
        sentences.append(
            f"{n_costlier} of {len(findings)} cost no fewer layer-forwards than "
            f"{_baseline_words(findings)}."
        )
    sentences += not_compared_sentences(group.comparisons)
    sentences += origin_sentences([baseline, *group.summaries])
    sentences += notice_sentences([baseline, *group.summaries])
    sentences += truncation_sentences(group.summaries) + busy_sentences(group.summaries)
    sentences += twin_sentences(group.summaries)
    parts = [
        f"**{group.task}**, `{baseline.model_args.get('model_path', '')}`, {baseline.dtype}. "
        f"{baseline_sentence(baseline, baseline.config)}\n",
        "\n".join(f"- {sentence}" for sentence in sentences) + "\n",
        _table(findings),
    ]
    return "\n".join(parts)


def _ideas_beside_controls(ideas: Sequence[ExperimentFinding], name_of: NameOf) -> str:
    """How the ideas stand beside thresholds and sub-blocks of the controls at equal cost."""
    counts = Counter(idea.standing for idea in ideas)
    if counts[Standing.NO_CONTROL] == len(ideas):
        if to_control := ideas[0].to_control:
            return f"Nothing can be compared at equal cost: {to_control.why_not_paired}."
        return "There are no controls, so nothing can be compared at equal cost."
    parts = [
        f"{counts[standing]} {words}"
        for standing, words in (
            (Standing.ABOVE, "above its control (shown)"),
            (Standing.WITHIN_NOISE, "above it, not shown"),
            (Standing.UNKNOWN, "cheaper than every control and not more accurate"),
            (Standing.NO_GAIN, "without a gain that was seen"),
            (Standing.DOMINATED, "dominated (shown)"),
            (Standing.NO_CONTROL, "without a control to compare with"),
        )
        if counts[standing]
    ]
    return (
        f"Of {counted(len(ideas), 'computation')}, at equal layer-forwards: {', '.join(parts)}."
        f"{_best_within_noise(ideas, name_of)}"
    )


def _best_within_noise(ideas: Sequence[ExperimentFinding], name_of: NameOf) -> str:
    """Describe the best of those above their controls of which that is not shown."""
    above = [idea for idea in ideas if idea.standing is Standing.WITHIN_NOISE]
    best = max(above, key=lambda idea: idea.gain or 0.0, default=None)
    paired = best.to_control.paired if best and best.to_control else None
    if best is None or best.to_control is None or paired is None:
        return ""
    needed = items_needed(paired.n, paired.only_a, paired.only_b, comparisons=best.n_tests)
    detection = f"; {detection_words(needed)}" if needed else ""
    return (
        f" The best of those not shown, `{name_of(best.summary)}`, is "
        f"{points(paired.difference)} above {_control_words(best, name_of)} "
        f"(p = {p_words(paired.p_value)}; corrected for {counted(best.n_tests, 'comparison')} "
        f"{p_words(paired.deciding_p)}){detection}."
    )


def _control_words(finding: ExperimentFinding, name_of: NameOf) -> str:
    assert finding.to_control is not None
    name, more = name_of(finding.to_control.baseline), finding.control_costs_more
    if finding.is_cheapest:
        return f"the cheapest control, `{name}`, which costs {100 * more:.0f} % more"
    return f"`{name}`, the best control of no higher cost (it costs {-100 * more:.0f} % less)"


def _cheapest_control(controls: Sequence[ExperimentFinding], name_of: NameOf) -> str:
    cheaper = [control for control in controls if control.saved > 0]
    if not cheaper:
        return f"No control is cheaper than {_baseline_words(controls)}."
    cheapest = cheaper[0]
    return (
        f"The cheapest control, `{name_of(cheapest.summary)}`, saves {100 * cheapest.saved:.0f} % "
        f"of the layer-forwards: {cheapest.to_baseline.verdict}."
    )


def _seconds(
    findings: Sequence[ExperimentFinding], speeds: Sequence[SpeedRecord], name_of: NameOf
) -> str:
    """Return the seconds of what was timed in turn with the baseline, over those of the latter."""
    baseline = findings[0].to_baseline.baseline
    timed = [
        (finding, ratios)
        for finding in findings
        if (ratios := ratios_between(baseline, finding.summary, speeds))
    ]
    if not timed:
        return (
            f"No seconds were measured in turn with {_baseline_words(findings)} (`speed:` in "
            "experiment.yaml, `snakemake speed`), so nothing is said of speed."
        )
    parts = [
        f"`{name_of(finding.summary)}` takes {'; '.join(ratio.words for ratio in ratios)}"
        for finding, ratios in timed
    ]
    measured = how_measured(timed[0][1][0].record)
    return (
        f"Seconds per answer over those of {_baseline_words(findings)}, in turn: "
        f"{'. '.join(parts)}. Measured by {measured}."
    )


def _fewest_without_loss(findings: Sequence[ExperimentFinding], name_of: NameOf) -> str:
    cheaper = [finding for finding in findings if finding.saved > 0]
    if cheaper and all(finding.to_baseline.paired is None for finding in cheaper):
        why = cheaper[0].to_baseline.why_not_paired
        return f"Whether fewer layer-forwards lose accuracy was not tested: {why}."
    lossless = [finding for finding in cheaper if finding.is_lossless]
    if not lossless:
        return "No configuration of fewer layer-forwards is without a loss of accuracy."
    best = lossless[0]
    paired = best.to_baseline.paired
    assert paired is not None
    kind = " (a control)" if best.is_control and _has_both_kinds(findings) else ""
    needed = f"; {detection_words(paired.n_needed)}" if paired.n_needed else ""
    return (
        f"Fewest layer-forwards without a loss that was seen: `{name_of(best.summary)}`{kind}, "
        f"{100 * best.saved:.0f} % fewer than {_baseline_words(findings)}"
        f"{_positions_words(best.to_baseline)}, {difference_words(best.to_baseline)} on "
        f"{paired.n:,} items{needed}."
    )


def _positions_words(comparison: Comparison) -> str:
    """Say what large batches pay, which need not fall with the layer-forwards; `` if unknown."""
    ours = position_forwards_per_answer(comparison.other)
    theirs = position_forwards_per_answer(comparison.baseline)
    if ours is None or not theirs:
        return ""
    change = 100 * (ours / theirs - 1)
    return f" ({abs(change):.0f} % {'more' if change > 0 else 'fewer'} position-forwards)"


def _has_both_kinds(findings: Sequence[ExperimentFinding]) -> bool:
    """Whether there are controls and others."""
    return len({finding.is_control for finding in findings}) == 2


def spans_compared(findings: Sequence[ExperimentFinding]) -> list[str]:
    """Rank the spans by their loss, for each set of configurations that differ in nothing else."""
    by_other_settings: dict[str, list[ExperimentFinding]] = {}
    for finding in findings:
        if _setting(finding, "reuse_k", 1) > 1:
            key = _shared(finding, without=("layer_subset",))
            by_other_settings.setdefault(key, []).append(finding)
    sentences = []
    for same in by_other_settings.values():
        if len(same) < 2:
            continue
        parts = [
            f"`{settings_of(finding.summary).get('layer_subset')}` {points(finding.loss)} for "
            f"{100 * finding.saved:.1f} %"
            for finding in sorted(same, key=lambda finding: finding.loss)
        ]
        sentences.append(
            f"Loss of accuracy for layer-forwards saved, by span, {_title(same[0])}: "
            f"{'; '.join(parts)}."
        )
    return sentences


def added_to_lookahead(findings: Sequence[ExperimentFinding]) -> list[str]:
    """Compare the least harmful reuse on top of look-ahead with the same look-ahead without it."""
    without_reuse = {
        _shared(finding, without=REUSE): finding
        for finding in findings
        if _setting(finding, "reuse_k", 1) == 1 and _setting(finding, "lookahead_depth", 0) > 0
    }
    pairs = [
        (finding, without_reuse[key])
        for finding in findings
        if _setting(finding, "reuse_k", 1) > 1
        and (key := _shared(finding, without=REUSE)) in without_reuse
    ]
    if not pairs:
        return []
    best, lookahead_only = min(pairs, key=lambda pair: pair[0].loss)
    return [
        f"Reuse on top of look-ahead, at its best: `{best.summary.config}` "
        f"{100 * best.summary.accuracy:.1f} % at {best.cost:.1f} layer-forwards, against "
        f"{100 * lookahead_only.summary.accuracy:.1f} % at {lookahead_only.cost:.1f} without reuse "
        f"(`{lookahead_only.summary.config}`)."
    ]


def _shared(finding: ExperimentFinding, *, without: Sequence[str]) -> str:
    """Return a key of all settings and parameters but those named."""
    settings = {k: v for k, v in settings_of(finding.summary).items() if k not in without}
    return repr((settings, parameters_of(finding.summary)))


def _setting(finding: ExperimentFinding, name: str, default: int) -> int:
    return int(settings_of(finding.summary).get(name, default))


def _title(finding: ExperimentFinding) -> str:
    parts = [f"k = {_setting(finding, 'reuse_k', 1)}"]
    if depth := _setting(finding, "lookahead_depth", 0):
        parts.append(f"look-ahead depth {depth}")
    parts += [f"{name} {value}" for name, value in parameters_of(finding.summary).items()]
    return ", ".join(parts)


def _table(findings: Sequence[ExperimentFinding]) -> str:
    """Return a row per computation, without the columns that none has a value in."""
    alignments = {
        "configuration": "---",
        "accuracy": "--:",
        "layer-forwards": "--:",
        "position-forwards": "--:",
        f"against {_baseline_words(findings)}": "---",
        "its control": "---",
        "against it": "---",
        "p, corrected": "--:",
    }
    rows = [dict(zip(alignments, _cells(finding), strict=True)) for finding in findings]
    headings = {name: side for name, side in alignments.items() if any(row[name] for row in rows)}
    return "\n".join(markdown_rows(headings, ([row[h] for h in headings] for row in rows))) + "\n"


def _cells(finding: ExperimentFinding) -> list[str]:
    to_control = finding.to_control
    control = f"`{to_control.baseline.config}`" if to_control else ""
    if finding.is_cheapest:
        control += f" (cheapest, {100 * finding.control_costs_more:.0f} % dearer)"
    return [
        names_words([run.config for run in finding.runs]),
        f"{100 * finding.summary.accuracy:.1f} %",
        f"{finding.cost:.1f}",
        cost_words(position_forwards_per_answer(finding.summary)),
        finding.to_baseline.verdict,
        control,
        difference_words(to_control),
        p_words(to_control.paired.deciding_p) if to_control and to_control.paired else "",
    ]
