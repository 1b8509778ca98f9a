"""Claims in READMEs against artifacts/, by formulas written here: nothing of fastdllm is used."""

from __future__ import annotations

import json
import math
import re
from functools import cache
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from tests.docs.by_hand import ARTIFACTS, NUMBER, ROOT, answer, close, counts, runs, score, tango

LEVEL = 0.025


@cache
def experiments() -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted((ROOT / "experiments").glob("[0-9]*/experiment.yaml")):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        if values.get("claims"):
            found[path.parent.name] = values
    return found


def task_of(experiment: str, claim: dict[str, Any]) -> str:
    return str(claim.get("task") or experiments()[experiment]["tasks"][0])


def controls_of(claim: dict[str, Any]) -> list[str]:
    against = claim["against"]
    return list(against) if isinstance(against, list) else [against]


def logs_of(experiment: str, claim: dict[str, Any], control: str) -> list[float]:
    """Of each sitting, the median over pairs of rounds of the logarithm of the ratio."""
    path = ARTIFACTS / experiment / task_of(experiment, claim) / "speed.json"
    found = []
    for sitting in json.loads(path.read_text(encoding="utf-8"))["sittings"]:
        rounds = next(b for b in sitting["batches"] if b["batch_size"] == claim["batch"])
        ours, theirs = (
            np.array(rounds["seconds"][name]).sum(axis=1) for name in (claim["config"], control)
        )
        logs = np.log(ours / theirs)
        first, second = np.triu_indices(len(logs))
        found.append(float(np.median((logs[first] + logs[second]) / 2)))
    return found


def p_of(experiment: str, claim: dict[str, Any], control: str) -> float:
    if claim["kind"] == "faster":
        logs = logs_of(experiment, claim, control)
        t = (math.log(claim["ratio"]) - np.mean(logs)) / stats.sem(logs)
        return float(stats.t.sf(t, len(logs) - 1))
    of_task = runs(task_of(experiment, claim))
    n, lost, gained = counts(of_task[experiment, control], of_task[experiment, claim["config"]])
    if claim["kind"] == "better":
        return float(stats.binom.sf(gained - 1, lost + gained, 0.5))
    assert claim["kind"] in ("noninferior", "frontier"), "a kind that nothing here checks"
    return float(stats.norm.sf(score(n, lost, gained, -claim["margin"])))


def cost_ratio(experiment: str, claim: dict[str, Any], control: str) -> float:
    of_task = runs(task_of(experiment, claim))
    of_both = of_task[experiment, claim["config"]], of_task[experiment, control]
    costs = [r.layers if claim["cost"] == "layer_forwards" else r.positions for r in of_both]
    assert costs[0] is not None and costs[1] is not None
    return costs[0] / costs[1]


def check_p(printed: str, p: float) -> None:
    if printed == "< 0.001":
        assert p < 0.001
    else:
        close(printed, p, 3)


def check_control(experiment: str, claim: dict[str, Any], control: str, line: str) -> None:
    check_p(line.rpartition(", p ")[2].partition(",")[0], p_of(experiment, claim, control))
    if claim["kind"] == "faster":
        match = re.match(
            rf"{NUMBER} \({NUMBER} to {NUMBER}\) of the seconds of {control}, p ", line
        )
        assert match is not None, line
        logs = logs_of(experiment, claim, control)
        half = stats.t.ppf(0.975, len(logs) - 1) * stats.sem(logs)
        centre = float(np.mean(logs))
        for figure, value in zip(
            match.groups(), (centre, centre - half, centre + half), strict=True
        ):
            close(figure, math.exp(value), 3)
        return
    match = re.match(
        rf"{NUMBER} points \({NUMBER} to {NUMBER}\) to {control}, (\d+):(\d+) items, p ", line
    )
    assert match is not None, line
    of_task = runs(task_of(experiment, claim))
    n, lost, gained = counts(of_task[experiment, control], of_task[experiment, claim["config"]])
    for figure, value in zip(
        match.groups()[:3], (100 * (gained - lost) / n, *tango(n, lost, gained)), strict=True
    ):
        close(figure, value, 2)
    assert (int(match[4]), int(match[5])) == (gained, lost)
    if claim["kind"] == "frontier":
        printed = re.search(rf", {NUMBER} of its ", line)
        assert printed is not None, line
        close(printed[1], cost_ratio(experiment, claim, control), 3)


def holds(experiment: str, claim: dict[str, Any]) -> bool:
    """Whether a claim is confirmed, if all before it are."""
    names = controls_of(claim)
    if claim["kind"] == "frontier" and any(
        cost_ratio(experiment, claim, name) > 1 - claim["saves"] for name in names
    ):
        return False
    return max(p_of(experiment, claim, name) for name in names) < LEVEL


def test_some_claims_are_published() -> None:
    assert [name for name in experiments() if (ARTIFACTS / name / "claims.json").exists()]


@pytest.mark.parametrize("experiment", experiments())
def test_claims_of_a_readme(experiment: str) -> None:
    lines = [line for line in answer(experiment) if line]
    assert re.fullmatch(
        r"\*\*Claims\*\*, registered in [0-9a-f]{10}\. Planned: [\d,]+ items, power \d+ %\.",
        lines[0],
    ), lines[0]
    lines = lines[1 : lines.index("All that follows is exploratory.")]
    is_open = True
    for claim in experiments()[experiment]["claims"]:
        head = re.fullmatch(r"- (C\d+)\. .*: \*\*([a-z ]+) \((.*?)\)(?:: .*)?\*\*", lines.pop(0))
        assert head is not None and head[1] == claim["id"]
        is_open = is_open and holds(experiment, claim)
        assert (head[2] == "confirmed") == is_open
        names = controls_of(claim)
        check_p(
            head[3].partition(", ")[0].removeprefix("p "),
            max(p_of(experiment, claim, n) for n in names),
        )
        for name in names:
            check_control(experiment, claim, name, lines.pop(0).removeprefix("  - "))
    assert not lines
