"""What is said of claims: a fixed sequence, costs, seconds, groups, and the words."""

from __future__ import annotations

from typing import Any

import pytest

from fastdllm.common.errors import UserError
from fastdllm.records.claim_kinds import Better, Claim, Equivalent, Faster, Frontier, NonInferior
from fastdllm.records.claims_record import ClaimResult, ClaimsRecord
from fastdllm.records.summary import ItemGroup, Items, Summary, pack_bits
from fastdllm.statistics.claims import Evidence, results_of
from fastdllm.statistics.claims_text import claims_lines
from fastdllm.statistics.needed_items import Assumed, needed_lines
from fastdllm.statistics.power import paired_power
from tests.support import made_up_runs

N = 4000


@pytest.fixture(scope="module")
def template() -> Summary:
    runs = made_up_runs.runs(tasks=("word_problems",))
    return next(run for run in runs if run.config == "k1_first")


def summary(template: Summary, name: str, wrong: range, *, cost: int = 100, groups: int = 0) -> Any:
    """A run that is wrong on a range of items and costs so many layer-forwards per answer."""
    right = [item not in wrong for item in range(N)]
    accuracy = sum(right) / N
    metric = template.primary.model_copy(update={"value": accuracy, "n": N})
    of_groups = [ItemGroup(f"g{i}", N // groups) for i in range(groups)] or None
    assert template.passes is not None
    return template.model_copy(
        update={
            "config": name,
            "fingerprint": name,
            "computation": name,
            "accuracy": accuracy,
            "metrics": [metric],
            "items": Items(n=N, correct_bits=pack_bits(right), groups=of_groups),
            "passes": template.passes.model_copy(
                update={"layer_forwards_computed": cost * template.n_answers}
            ),
        }
    )


@pytest.fixture(scope="module")
def evidence(template: Summary) -> Evidence:
    runs = {
        "plain": summary(template, "plain", range(200), cost=120),
        # Another 10 items wrong, 10 others right.
        "look": summary(template, "look", range(10, 210), cost=100),
        "dear": summary(template, "dear", range(205), cost=99),
        "bad": summary(template, "bad", range(300), cost=101),
    }
    return Evidence(runs, made_up_runs.speeds(made_up_runs.runs(tasks=("word_problems",)))[0])


def results(evidence: Evidence, *claims: Claim, **problems: str) -> list[ClaimResult]:
    return results_of(claims, lambda _claim: evidence, problems)


def noninferior(id_: str = "C1", margin: float = 0.01, **names: str) -> NonInferior:
    given = {"config": "look", "against": "plain", **names}
    return NonInferior(id=id_, kind="noninferior", margin=margin, **given)


def better(id_: str = "C2", config: str = "look", against: str = "bad") -> Better:
    return Better(id=id_, kind="better", config=config, against=against)


def frontier(*against: str, margin: float = 0.01, saves: float = 0.02) -> Frontier:
    given: dict[str, Any] = {"cost": "layer_forwards", "margin": margin, "saves": saves}
    return Frontier(id="C3", kind="frontier", config="look", against=list(against), **given)


def test_claims_are_tested_until_one_is_not_confirmed(evidence: Evidence) -> None:
    claims = [noninferior(), better("C2", "look", "plain"), better("C3"), noninferior("C4")]
    found = results(evidence, *claims)
    assert [result.verdict for result in found] == [
        *("confirmed", "not confirmed", "not tested", "not tested"),
    ]
    assert found[2].reason == "C2 before it was not confirmed"
    assert found[2].p is not None, "its figures are shown"
    assert found[2].p < 0.001
    alone = results(evidence, *claims[2:])
    assert [result.verdict for result in alone] == ["confirmed", "confirmed"]


def test_the_figures_are_those_of_the_items(evidence: Evidence) -> None:
    (found,) = results(evidence, noninferior())
    (control,) = found.controls
    assert (found.n, control.only_config, control.only_control) == (N, 10, 10)
    assert control.estimate == 0
    assert control.interval[0] > -0.01
    assert found.power is not None
    assert found.power > 0.99
    (narrow,) = results(evidence, noninferior(margin=0.001))
    assert (narrow.verdict, narrow.reason) == ("not confirmed", None)
    assert narrow.power is not None
    assert narrow.power < 0.2


def test_the_opposite_is_shown_at_the_same_level(evidence: Evidence) -> None:
    worse = noninferior(margin=0.01, config="bad")
    far = Equivalent(id="C1", kind="equivalent", config="bad", against="plain", margin=0.01)
    for claim in (worse, far, better("C1", "bad", "look")):
        (found,) = results(evidence, claim)
        assert found.verdict == "contradicted"
        assert found.p_opposite is not None
        assert found.p_opposite < 0.025
    (near,) = results(evidence, noninferior(margin=0.024, config="bad"))
    assert near.verdict == "not confirmed", "a loss of 2.5 points is neither"


def test_a_frontier_has_to_be_cheaper_than_each(evidence: Evidence) -> None:
    (found,) = results(evidence, frontier("plain"))
    assert found.verdict == "confirmed"
    assert found.controls[0].cost_ratio == pytest.approx(100 / 120)
    (found,) = results(evidence, frontier("plain", "bad"))
    assert found.verdict == "not confirmed"
    assert found.reason == "saves only 1.0 % of layer-forwards against bad"
    (found,) = results(evidence, frontier("plain", "dear"))
    assert found.verdict == "contradicted"
    assert found.reason == "does not save, but costs 1.0 % of layer-forwards against dear"
    largest = max(results(evidence, frontier(name))[0].p or 0 for name in ("plain", "dear"))
    assert found.p == largest


def test_problems_make_a_result_exploratory_and_end_the_sequence(evidence: Evidence) -> None:
    found = results(evidence, noninferior(), better(), C1="look was made with uncommitted changes")
    assert [result.verdict for result in found] == ["exploratory", "not tested"]
    assert found[0].reason == "look was made with uncommitted changes"
    assert found[0].p is not None


def faster(ratio: float = 0.98, batch: int = 1, against: str = "00_baseline/k1_first") -> Faster:
    return Faster(
        id="C1",
        kind="faster",
        config="d3_t0.95_s4",
        against=against,  # type: ignore[arg-type]
        batch=batch,
        ratio=ratio,
    )


def test_seconds_are_those_of_the_sittings(evidence: Evidence) -> None:
    (found,) = results(evidence, faster())
    assert evidence.speed is not None
    published = evidence.speed.estimate("d3_t0.95_s4", 1)
    assert published is not None
    (control,) = found.controls
    assert found.verdict == "confirmed"
    assert (found.n, found.power) == (3, None)
    assert control.estimate == published.ratio
    assert control.interval == published.interval
    assert results(evidence, faster(ratio=0.5))[0].verdict == "contradicted"
    assert results(evidence, faster(ratio=0.81))[0].verdict == "not confirmed"

    (missing,) = results(evidence, faster(batch=7))
    assert (missing.verdict, missing.controls) == ("not measured", [])
    assert "was not timed at batch size 7" in str(missing.reason)
    (missing,) = results(Evidence({}), faster())
    assert missing.verdict == "not measured"
    failed = evidence.speed.model_copy(update={"failed_checks": ["batch 1: more than chance"]})
    (found,) = results(Evidence({}, failed), faster())
    assert found.verdict == "not confirmed"
    assert found.reason == "a check failed: batch 1: more than chance"


def test_groups_widen_what_is_claimed(template: Summary) -> None:
    runs = {
        "plain": summary(template, "plain", range(400, 410), groups=20),
        "look": summary(template, "look", range(190, 209), groups=20),
    }
    (found,) = results(Evidence(runs), noninferior(margin=0.006))
    (control,) = found.controls
    single = {
        name: run.model_copy(update={"items": run.items.model_copy(update={"groups": None})})
        for name, run in runs.items()
    }
    (ungrouped,) = results(Evidence(single), noninferior(margin=0.006))
    assert control.clustered_stderr is not None
    assert control.interval[0] < ungrouped.controls[0].interval[0]
    assert (found.p or 0) > (ungrouped.p or 0)


def test_what_cannot_be_compared_is_not_measured(evidence: Evidence, template: Summary) -> None:
    other = summary(template, "plain", range(3)).model_copy(update={"task": "another"})
    (found,) = results(Evidence({**evidence.summaries, "plain": other}), noninferior())
    assert found.verdict == "not measured"
    assert (
        found.reason == "cannot be compared with plain: different tasks: another and word_problems"
    )


def test_lines_say_all_of_it(evidence: Evidence) -> None:
    claims = [noninferior(), frontier("plain", "bad"), better("C4")]
    made = ClaimsRecord(
        experiment="05_confirm",
        digest="d",
        registered="0123456789abcdef",
        results=results(evidence, *claims),
        made_from={},
    )
    lines = claims_lines(made)
    assert lines[:3] == [
        "05_confirm: claims registered in 0123456789",
        "  C1 look loses less than 1.00 points to plain: confirmed (p < 0.001, 4,000 items, power "
        "100 % at a difference of 0)",
        "     0.00 points (-0.24 to +0.24) to plain, 10:10 items, p < 0.001",
    ]
    assert "not confirmed (" in lines[3]
    assert lines[3].endswith("saves only 1.0 % of layer-forwards against bad")
    assert lines[4].endswith(", 0.833 of its layer-forwards")
    assert lines[6].endswith(": C3 before it was not confirmed")


def test_items_needed_from_what_was_seen_and_what_is_assumed(evidence: Evidence) -> None:
    claims = [noninferior(margin=0.005), frontier("plain", "bad"), better("C4"), faster()]
    lines = needed_lines(claims, evidence.summaries, power=0.9, planned_n=N)
    assert lines[0] == "  C1 look loses less than 0.50 points to plain"
    needed = int(lines[1].split()[0].replace(",", ""))
    # 20 of 4,000 items differ.
    powers = [
        paired_power("noninferior", n, discordance=0.005, margin=0.005)
        for n in (needed, int(0.95 * needed))
    ]
    assert powers[0] >= 0.9 > powers[1]
    assert "if the true difference is 0.00 points; with 4,000 the power is 9" in lines[1]
    assumed = needed_lines(claims, Assumed(0.005, 0.0), power=0.9, planned_n=None)
    assert assumed[1].startswith(f"     {needed:,} items if the true difference is 0.00 points")
    assert "--difference" in assumed[5]
    assert "docs/speed.md" in lines[-1]
    with pytest.raises(UserError, match="no experiment has a result of plain"):
        needed_lines(claims, {"look": evidence.summaries["look"]}, power=0.9, planned_n=N)
    with pytest.raises(UserError, match="at least the difference"):
        needed_lines(claims, Assumed(0.005, 0.01), power=0.9, planned_n=N)
