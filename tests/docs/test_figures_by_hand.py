"""Figures in the READMEs against artifacts/, by formulas written here: nothing of fastdllm is used.

Each row of a table and each sentence with a figure is taken apart and computed anew (by_hand.py); a
sentence of a form that is not known here fails, so that none goes unchecked.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tests.docs.by_hand import (
    ARTIFACTS,
    CONTROLS,
    NUMBER,
    ROOT,
    Run,
    Section,
    answer,
    close,
    counts,
    is_same,
    names_in,
    runs,
    sections,
    tango,
)

SECTIONS = sections()
EXPERIMENTS = sorted(path.parent.name for path in (ROOT / "experiments").glob("[0-9]*/README.md"))
# Of 10,000 draws the p-value near 0.05 is known to +- 0.006; beside it either word may stand.
UNSURE = (0.04, 0.06)


def is_alike(section: Section, name: str, control: Run) -> bool:
    """Whether the control of this name costs and answers the same; there may be two such."""
    named = runs(section.task)[CONTROLS, name]
    return named.layers == control.layers and bool((named.right == control.right).all())


@cache
def corrected(section: Section) -> dict[tuple[str, str], float]:
    """By config and kind (baseline, control): p over the experiment's family (step-down max-T)."""
    pairs: dict[tuple[str, str], tuple[Run, Run]] = {}
    for run in runs(section.task).values():
        if run.experiment != section.experiment or is_same(run, section.baseline):
            continue
        pairs[run.config, "baseline"] = (section.baseline, run)
        is_control = any(is_same(run, control) for control in section.controls)
        if section.controls and section.experiment != CONTROLS and not is_control:
            pairs[run.config, "control"] = (section.control_of(run), run)
    rows = np.array([b.right - a.right for a, b in pairs.values()], dtype=np.float32)
    scale = np.sqrt(np.maximum(np.abs(rows).sum(axis=1), 1))
    observed = np.abs(rows.sum(axis=1)) / scale
    signs = np.random.default_rng(99).choice([-1.0, 1.0], size=(rows.shape[1], 8000))
    drawn = np.abs(rows @ signs.astype(np.float32)) / scale[:, None]
    order = np.argsort(observed)
    largest = np.maximum.accumulate(drawn[order], axis=0)
    p = ((largest >= observed[order][:, None] - 1e-4).sum(axis=1) + 1) / 8001
    p = np.maximum.accumulate(p[::-1])[::-1]
    return {list(pairs)[place]: float(value) for place, value in zip(order, p, strict=True)}


def is_shown(p: float) -> bool | None:
    return None if UNSURE[0] <= p <= UNSURE[1] else p < 0.05


def check_words(words: str, a: Run, b: Run, p: float | None) -> None:
    """What is said of a difference follows from the items."""
    n, lost, gained = counts(a, b)
    low, high = tango(n, lost, gained) if lost + gained else (0.0, 0.0)
    difference = 100 * (gained - lost) / n
    if match := re.fullmatch(
        rf"(loss|gain) of {NUMBER} points \(95 % interval {NUMBER} to {NUMBER}\), shown", words
    ):
        assert match[1] == ("loss" if difference < 0 else "gain")
        close(match[2], abs(difference))
        close(match[3], low)
        close(match[4], high)
        assert p is None or is_shown(p) is not False
    elif match := re.fullmatch(
        rf"(loss|gain) of {NUMBER} to {NUMBER} points \(95 %, this row alone\)", words
    ):
        ends = (-high, -low) if match[1] == "loss" else (low, high)
        close(match[2], ends[0])
        close(match[3], ends[1])
        assert ends[0] > 0
        assert p is None or is_shown(p) is not True
    elif match := re.fullmatch(
        r"(no difference seen|no item differs); a loss(?: of more than ([\d.]+) points)? is "
        r"excluded",
        words,
    ):
        assert (match[1] == "no item differs") == (lost + gained == 0)
        if lost + gained:
            assert low < 0.05 and high >= 0
            if match[2]:
                assert -low <= float(match[2]) + 1e-6 <= -low + 0.1 + 1e-6
        assert p is None or is_shown(p) is not True
    else:
        raise AssertionError(f"unknown words: {words}")


def needed(a: Run, b: Run, level: float = 0.025) -> int:
    """Connor (1987): items for a power of 80 %."""
    n, lost, gained = counts(a, b)
    share, d = (lost + gained) / n, (gained - lost) / n
    z = stats.norm.ppf(1 - level), stats.norm.ppf(0.8)
    return math.ceil(((z[0] * math.sqrt(share) + z[1] * math.sqrt(share - d * d)) / d) ** 2)


OF_EACH = pytest.mark.parametrize("section", SECTIONS, ids=lambda s: f"{s.experiment}-{s.task}")


@OF_EACH
def test_rows_of_a_readme(section: Section) -> None:
    rows = section.rows
    assert rows
    for row in rows:
        run = section.run(names_in(row["configuration"])[0])
        close(row["accuracy"].removesuffix(" %"), run.accuracy)
        close(row["layer-forwards"], run.layers)
        printed = row.get("position-forwards", "")
        assert bool(printed) == (run.positions is not None)
        if run.positions is not None:
            close(printed, run.positions, len(printed.partition(".")[2]))
        p = corrected(section)
        check_words(row["against plain decoding"], section.baseline, run, p[run.config, "baseline"])
        if not row.get("its control"):
            continue
        control = section.control_of(run)
        assert is_alike(section, names_in(row["its control"])[0], control)
        if dearer := re.search(r"cheapest, (\d+) % dearer", row["its control"]):
            close(dearer[1], 100 * (control.layers / run.layers - 1), 0)
        else:
            assert control.layers <= run.layers
        n, lost, gained = counts(control, run)
        low, high = tango(n, lost, gained)
        printed = re.findall(NUMBER, row["against it"].replace("points", ""))
        for figure, value in zip(printed, (100 * (gained - lost) / n, low, high), strict=True):
            close(figure, value)
        mine = p[run.config, "control"]
        if row["p, corrected"] == "< 0.001":
            assert mine < 0.004
        else:
            assert float(row["p, corrected"]) == pytest.approx(mine, abs=0.02)


def standing(section: Section, row: dict[str, str]) -> str:
    run = section.run(names_in(row["configuration"])[0])
    control = section.control_of(run)
    _, lost, gained = counts(control, run)
    shown = is_shown(corrected(section)[run.config, "control"])
    if shown is None:  # two draws would judge otherwise; test_rows_of_a_readme checks this p
        shown = float(row["p, corrected"]) < 0.05
    if gained > lost:
        return "above its control (shown)" if shown else "above it, not shown"
    if control.layers > run.layers:
        return "cheaper than every control and not more accurate"
    return "dominated (shown)" if shown and lost > gained else "without a gain that was seen"


def check_standings(section: Section, match: re.Match[str]) -> None:
    assert int(match[1]) == len(section.rows)
    tally = Counter(standing(section, row) for row in section.rows)
    said = re.findall(r"(\d+) (above it, not shown|[^,.]+)", match[2])
    assert {words: int(count) for count, words in said} == tally
    if match[3]:
        best = re.search(
            rf"`([^`]+)`, is {NUMBER} points above (?:the cheapest control, )?`([^`]+)`, .*? costs "
            rf"(\d+) % (more|less)\)? \(p = ([\d.]+); corrected for (\d+) comparisons ([\d.]+)\); "
            rf"{NUMBER} items would detect",
            match[3],
        )
        assert best is not None, match[3]
        run = section.run(best[1])
        control = section.control_of(run)
        n, lost, gained = counts(control, run)
        assert is_alike(section, best[3], control)
        close(best[2], 100 * (gained - lost) / n)
        change = 100 * (control.layers / run.layers - 1)
        close(best[4], change if best[5] == "more" else -change, 0)
        assert float(best[6]) == pytest.approx(
            stats.binomtest(lost, lost + gained).pvalue, abs=6e-4
        )
        mine = corrected(section)[run.config, "control"]
        assert float(best[8]) == pytest.approx(mine, abs=0.02)
        assert int(best[9].replace(",", "")) == needed(control, run, 0.025 / int(best[7]))


def check_fewest(section: Section, match: re.Match[str]) -> None:
    run, plain = section.run(match[1]), section.baseline
    close(match[2], 100 * (1 - run.layers / plain.layers), 0)
    is_counted = run.positions is not None and plain.positions is not None
    assert (match[3] is not None) == is_counted
    if run.positions is not None and plain.positions is not None:
        change = 100 * (run.positions / plain.positions - 1)
        close(match[3], abs(change), 0)
        assert match[4] == ("more" if change > 0 else "fewer")
    n, lost, gained = counts(plain, run)
    low, high = tango(n, lost, gained)
    for printed, value in zip(
        match.groups()[4:7], (100 * (gained - lost) / n, low, high), strict=True
    ):
        close(printed, value)
    assert int(match[8].replace(",", "")) == n
    assert high >= 0
    if match[9]:
        assert int(match[9].replace(",", "")) == needed(plain, run)
    for other in section.listed:
        if other.layers < run.layers:
            assert tango(*counts(plain, other))[1] < 0, other.config


def check_spans(section: Section, match: re.Match[str]) -> None:
    plain = section.baseline
    parts = re.findall(rf"`([^`]+)` {NUMBER} points for {NUMBER} %", match[2])
    assert len(parts) >= 2
    k = int(re.search(r"k = (\d+)", match[1])[1])  # type: ignore[index]
    for span, loss, saved in parts:
        fits = [
            run
            for run in runs(section.task).values()
            if run.experiment == section.experiment
            and run.settings["decoding.reuse_k"] == k
            and str(run.settings["decoding.layer_subset"]) == span
            and abs(plain.accuracy - run.accuracy - float(loss)) < 0.051
            and abs(100 * (1 - run.layers / plain.layers) - float(saved)) < 0.051
        ]
        assert fits, f"no run has {span}, k = {k}, {loss} points for {saved} %"


def check_reuse(section: Section, match: re.Match[str]) -> None:
    for name, accuracy, layers in ((match[1], match[2], match[3]), (match[6], match[4], match[5])):
        run = section.run(name)
        close(accuracy, run.accuracy)
        close(layers, run.layers)


def check_twins(section: Section, match: re.Match[str]) -> None:
    first, *others = (section.run(name) for name in names_in(match[0]))
    for other in others:
        assert (first.right == other.right).all() and first.tokens == other.tokens
        assert first.layers == other.layers and first.computation != other.computation


def check_cheapest(section: Section, match: re.Match[str]) -> None:
    cheapest = min(section.controls, key=lambda control: control.layers)
    run = section.run(match[1])
    assert run.layers == cheapest.layers
    close(match[2], 100 * (1 - run.layers / section.baseline.layers), 0)
    check_words(match[3], section.baseline, run, corrected(section)[run.config, "baseline"])


def check_costlier(section: Section, match: re.Match[str]) -> None:
    found = section.listed
    assert int(match[2]) == len(found)
    assert int(match[1]) == sum(run.layers >= section.baseline.layers for run in found)


def check_busy(section: Section, match: re.Match[str]) -> None:
    of_section = [run for (e, _), run in runs(section.task).items() if e == section.experiment]
    shares = {run.config: run.processor_share for run in of_section if run.processor_share}
    assert int(match[1]) == sum(share < 0.9 for share in shares.values())
    assert int(match[2]) == len(of_section)
    close(match[4], 100 * shares[match[3]], 0)
    assert shares[match[3]] == min(shares.values())


def check_baseline(section: Section, match: re.Match[str]) -> None:
    run = section.baseline
    named = [r for (_, config), r in runs(section.task).items() if config == match[1]]
    assert any(is_same(run, other) for other in named)
    close(match[2], run.accuracy)
    interval = stats.binomtest(int(run.right.sum()), run.n).proportion_ci(method="wilson")
    close(match[3], 100 * interval.low)
    close(match[4], 100 * interval.high)
    assert int(match[5].replace(",", "")) == run.n
    close(match[6], run.layers, 0)


def check_nothing_without_loss(section: Section, _match: re.Match[str]) -> None:
    for run in section.listed:
        assert run.layers >= section.baseline.layers or tango(*counts(section.baseline, run))[1] < 0


def ratio_by_hand(record: dict[str, Any], config: str, size: int) -> tuple[float, float, float]:
    """Mean of the sittings' Hodges-Lehmann medians, and Student's interval over sittings."""
    centres = []
    for sitting in record["sittings"]:
        rounds = next(b for b in sitting["batches"] if b["batch_size"] == size)
        ours, theirs = (
            np.array(rounds["seconds"][name]).sum(axis=1) for name in (config, record["baseline"])
        )
        logs = np.log(ours / theirs)
        upper = np.triu_indices(len(logs))
        centres.append(float(np.median((logs[upper[0]] + logs[upper[1]]) / 2)))
    mean, error = float(np.mean(centres)), stats.sem(centres)
    low, high = stats.t.interval(0.95, len(centres) - 1, loc=mean, scale=error)
    return math.exp(mean), math.exp(low), math.exp(high)


def check_seconds(section: Section, match: re.Match[str]) -> None:
    path = ARTIFACTS / section.experiment / section.task / "speed.json"
    if not path.exists():  # timed by another experiment that has the same computations
        (path,) = ARTIFACTS.glob(f"*/{section.task}/speed.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    computations = record["decides"]["computations"]
    said = re.findall(
        rf"(?:`([^`]+)` takes |; ){NUMBER} \({NUMBER} to {NUMBER}\) of the seconds at batch size "
        r"(\d+), (faster|slower|neither is certainly faster)",
        match[1],
    )
    assert len(said) == match[1].count(" of the seconds at ")
    name = ""
    for config, *printed, size, verdict in said:
        name = config or name
        own = (name, f"{section.experiment}/{name}")
        digest = section.run(name).computation
        timed = next(key for key, value in computations.items() if key in own or value == digest)
        ratio, low, high = ratio_by_hand(record, timed, int(size))
        for figure, value in zip(printed, (ratio, low, high), strict=True):
            close(figure, value, 3)
        expected = "faster" if high < 1 else "slower" if low > 1 else "neither is certainly faster"
        assert verdict == expected
    sittings = record["sittings"]
    assert int(match[2]) == len(sittings)
    assert match[3] == sittings[0]["started"][:16]
    rounds = sum(len(b["tokens"][timed]) for s in sittings for b in s["batches"])
    assert int(match[4]) == rounds
    assert match[5].startswith(sittings[0]["hardware"]["name"])


Check = Callable[[Section, re.Match[str]], None]
# Every form of a sentence with figures.
FORMS: dict[str, Check] = {
    rf"\*\*[a-z_]+\*\*, .*Baseline `([^`]+)`: right on {NUMBER} % \({NUMBER} to {NUMBER}\) of "
    rf"{NUMBER} items at {NUMBER} layer-forwards per answer\.": check_baseline,
    r"- Of (\d+) computations, at equal layer-forwards: (.*?)\."
    r"(?: The best of those not shown, (.*))?": check_standings,
    r"- No configuration of fewer layer-forwards is without a loss of accuracy\.": (
        check_nothing_without_loss
    ),
    rf"- Fewest layer-forwards without a loss that was seen: `([^`]+)`, (\d+) % fewer than plain "
    rf"decoding(?: \((\d+) % (more|fewer) position-forwards\))?, {NUMBER} points "
    rf"\({NUMBER} to {NUMBER}\) on {NUMBER} items(?:; {NUMBER} items would "
    r"detect it in 80 % of samples if the observed difference were true)?\.": check_fewest,
    r"- Loss of accuracy for layer-forwards saved, by span, (.*?): (`.*)\.": check_spans,
    rf"- Reuse on top of look-ahead, at its best: `([^`]+)` {NUMBER} % at {NUMBER} layer-forwards, "
    rf"against {NUMBER} % at {NUMBER} without reuse \(`([^`]+)`\)\.": check_reuse,
    r"- (?:`[^`]+`(?:, | and )?)+ are right on the same items, with as many tokens, passes and "
    r"layer-forwards: no evidence for each other\.": check_twins,
    r"- The cheapest control, `([^`]+)`, saves (\d+) % of the layer-forwards: (.*)\.": (
        check_cheapest
    ),
    r"- Seconds per answer over those of plain decoding, in turn: (.*)\. Measured by (\d+) "
    r"processes within .*? \(from (.*?) UTC\), (\d+) rounds in turn, (.*)\.": check_seconds,
    r"- (\d+) of (\d+) runs timed on a busy machine, `([^`]+)` most \(on a processor for (\d+) % "
    r"of the time\): their tokens/s say little; `fastdllm eval <spec> --again` measures them "
    r"anew\.": check_busy,
    r"- (\d+) of (\d+) cost no fewer layer-forwards than plain decoding\.": check_costlier,
}
WITHOUT_FIGURES = (
    "- No seconds were measured in turn with ",
    "- There are no controls, so nothing can be compared at equal cost.",
)


@OF_EACH
def test_sentences_of_a_readme(section: Section) -> None:
    sentences = [line for line in section.lines if line and not line.startswith("|")]
    assert len(sentences) >= 3
    for sentence in sentences:
        if sentence.startswith(WITHOUT_FIGURES):
            continue
        form = next((f for f in FORMS if re.fullmatch(f, sentence)), None)
        assert form is not None, f"nothing here checks: {sentence}"
        match = re.fullmatch(form, sentence)
        assert match is not None
        FORMS[form](section, match)


def test_the_first_page_says_what_the_experiments_say() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = text.partition("<!-- findings: begin")[2].partition("<!-- findings: end")[0]
    lines = found.splitlines()[1:]
    assert [line.split("]")[0].removeprefix("- [") for line in lines] == EXPERIMENTS
    for experiment, line in zip(EXPERIMENTS, lines, strict=True):
        said, own = line.partition("). ")[2], answer(experiment)
        if ": **" not in said:
            assert f"- {said}" in own
        for part in re.findall(r"([^;]+: \*\*[a-z ]+)\*\*[;.] ?", said):  # claims
            assert any(re.match(r"- C\d+\. ", line) and part in line for line in own), part
