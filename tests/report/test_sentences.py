"""The sentences of an experiment's README, on made-up runs and on the published ones."""

from __future__ import annotations

import pytest

from fastdllm.report.content import build_report
from fastdllm.report.groups import grouped
from fastdllm.report.sentences import NOTHING, answer_of, main_sentences
from fastdllm.report.standings import Standing, findings_of
from scripts.update_answers import experiments, published, with_answer, with_findings
from tests.support.committed import ROOT, unpack_committed
from tests.support.made_up_runs import runs, speeds

READMES = experiments(ROOT)


@pytest.fixture(scope="module")
def summaries():
    return runs(tasks=("word_problems",))


def of(summaries, experiment):
    return findings_of(grouped(summaries))[experiment]


def test_runs_of_one_computation_are_one_row_with_all_their_names(summaries):
    findings = of(summaries, "00_baseline")
    assert [tuple(run.config for run in finding.runs) for finding in findings] == [
        tuple(f"k{k}_{subset}" for subset in ("first", "middle", "last")) for k in (3, 2)
    ]


def test_each_run_meets_the_most_accurate_control_that_costs_no_more(summaries):
    controls = [run for run in summaries if run.experiment == "03_controls"]
    cost = lambda run: run.passes.layer_forwards_computed / run.n_requests  # noqa: E731
    for finding in of(summaries, "02_delta_reuse"):
        affordable = [run.accuracy for run in controls if cost(run) <= finding.cost]
        assert not finding.is_cheapest
        assert finding.to_control.baseline.accuracy == max(affordable)
        assert finding.gain == pytest.approx(finding.summary.accuracy - max(affordable))


def test_a_run_cheaper_than_every_control_meets_the_cheapest_one(summaries):
    findings = of(summaries, "04_lookahead")
    assert [f.is_cheapest for f in findings] == [f.cost < 98.0 for f in findings]
    assert all(f.to_control.baseline.config == "t0.5" for f in findings if f.is_cheapest)
    assert all(f.standing is Standing.ABOVE for f in findings if f.is_cheapest)


def test_standings_are_counted_in_words(summaries):
    answer = answer_of("00_baseline", summaries, [])
    assert "- Of 2 computations, at equal layer-forwards: 2 dominated (shown).\n" in answer
    answer = answer_of("04_lookahead", summaries, [])
    assert (
        "- Of 18 computations, at equal layer-forwards: 18 above its control (shown).\n" in answer
    )
    assert answer_of("09_missing", summaries, []) == NOTHING


def test_only_seconds_in_turn_are_told(summaries):
    untimed = answer_of("04_lookahead", summaries, [])
    assert "No seconds were measured in turn with plain decoding" in untimed
    assert "faster" not in untimed
    answer = answer_of("04_lookahead", summaries, speeds(summaries))
    line = next(line for line in answer.splitlines() if line.startswith("- Seconds per answer"))
    assert "`d3_t0.95_s4` takes 0.810 (" in line and "of the seconds at batch size 32" in line
    assert "Measured by 3 processes within 49.0 hours" in line and "t0.7" not in line
    controls = answer_of("03_controls", summaries, speeds(summaries))
    assert "`t0.7` takes 0.810 (" in controls


def test_a_failed_check_takes_the_verdict_away(summaries):
    failed = [s.model_copy(update={"failed_checks": ["batch 1: odd"]}) for s in speeds(summaries)]
    answer = answer_of("04_lookahead", summaries, failed)
    assert "not to be used, as a check failed" in answer and "faster" not in answer


@pytest.mark.parametrize("experiment", ["00_baseline", "03_controls", "04_lookahead"])
def test_a_page_of_one_experiment_says_what_its_readme_says(summaries, experiment):
    (task,) = build_report(summaries, experiments=[experiment]).tasks
    answer = answer_of(experiment, summaries, [])
    sentences = main_sentences(task.findings, [])
    assert len(sentences) == 3
    for sentence in sentences:
        assert f"- {sentence}\n" in answer


def test_spans_are_ranked_by_their_loss(summaries):
    answer = answer_of("02_delta_reuse", summaries, [])
    line = next(line for line in answer.splitlines() if "by span, k = 2" in line)
    assert line.index("`5_11` 7.3") < line.index("`3_8`") < line.index("`first`")
    assert "by span" not in answer_of("00_baseline", summaries, [])  # one computation each


def test_a_score_that_is_no_share_of_items_has_losses_and_no_tests(summaries):
    means = []
    for run in summaries:
        metric = run.primary.model_copy(update={"metric": "f1", "interval_method": "normal"})
        means += [run.model_copy(update={"items": None, "metrics": [metric]})]
    answer = answer_of("02_delta_reuse", means, [])
    losses = [
        f"`{finding.summary.decides['decoding.layer_subset']}` {100 * loss:.1f} points for"
        for finding in of(means, "02_delta_reuse")
        if (loss := finding.to_baseline.baseline.accuracy - finding.summary.accuracy) > 0.05
    ]
    assert len(losses) == 10 and all(loss in answer for loss in losses)
    why = "the summaries do not say which items are right."
    assert f"- Nothing can be compared at equal cost: {why}\n" in answer
    assert f"- Whether fewer layer-forwards lose accuracy was not tested: {why}\n" in answer
    assert "Baseline `k1_first`: f1 95.3 % (93.3 to 96.8) on 600 items" in answer


def test_a_loss_that_only_a_correction_hides_is_a_loss(summaries):
    answer = answer_of("03_controls", summaries, [])
    line = next(line for line in answer.splitlines() if line.startswith("| `sub16`"))
    assert "| loss of " in line
    assert "without a loss that was seen: `sub16`" not in answer


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """What is committed; the artifacts at hand may be those of a `make run` just now."""
    folder = tmp_path_factory.mktemp("committed")
    paths = ("README.md", "workflow_config.yaml", "experiments", "tasks", "models", "artifacts")
    if not unpack_committed(folder, *paths):
        pytest.skip("no git checkout")
    return folder


@pytest.mark.parametrize("experiment", [path.parent.name for path in READMES])
def test_every_readme_says_what_the_published_runs_say(committed, experiment):
    path = committed / "experiments" / experiment / "README.md"
    if not path.is_file():
        pytest.skip(f"{experiment} is not committed yet")
    text = path.read_text(encoding="utf-8")
    renewed = with_answer(text, answer_of(experiment, *published(committed)))
    assert text == renewed, "run scripts/update_answers.py"


def test_an_experiment_that_was_just_made_gets_its_answer(tmp_path):
    made = tmp_path / "experiments" / "05_mine"
    made.mkdir(parents=True)
    template = (ROOT / "experiments" / "_template" / "README.md").read_text(encoding="utf-8")
    (made / "README.md").write_text(template, encoding="utf-8")
    assert experiments(tmp_path) == [made / "README.md"]
    assert NOTHING in with_answer(template, answer_of("05_mine", [], []))


def test_the_readme_of_the_project_says_it_in_short(committed):
    text = (committed / "README.md").read_text(encoding="utf-8")
    renewed = with_findings(text, *published(committed), committed)
    assert text == renewed, "run scripts/update_answers.py"
