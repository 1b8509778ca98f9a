"""Reports, tables and READMEs show and compare only what belongs together."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from fastdllm.cli import main
from fastdllm.common.errors import UserError
from fastdllm.records.summary import Items, Summary, pack_bits
from fastdllm.report.content import Report, build_report
from fastdllm.report.csv_tables import csv_table
from fastdllm.report.flips import flipped_items
from fastdllm.report.groups import grouped
from fastdllm.report.page import render_page
from fastdllm.report.sentences import answer_of
from fastdllm.report.standings import Standing
from fastdllm.report.text_tables import terminal_table
from fastdllm.statistics.comparison import compare, is_same_computation
from fastdllm.statistics.comparison_text import comparison_text
from fastdllm.statistics.disagreements import disagreements
from fastdllm.workflow.project.runs import load_project
from scripts.update_answers import published
from tests.support.fakes import fake_summary
from tests.support.made_up_runs import N_ITEMS, runs

MOVED = "data or model of the hub have changed in between; decode the older run again"


def of_hub(run: Summary, commit: str, **fields: Any) -> Summary:
    """A run of a hub's model whose branch was this commit."""
    how = {**run.eval_params, "items_digest": commit}
    return run.model_copy(update={"eval_params": how, **fields})


def mostly_wrong(run: Summary) -> dict[str, Any]:
    """Other figures of a decoded run: only the last quarter of the items is right."""
    wrong = 3 * N_ITEMS // 4
    bits = pack_bits([False] * wrong + [True] * (N_ITEMS - wrong))
    metric = run.primary.model_copy(update={"value": 0.25, "interval": (0.22, 0.29)})
    items = Items(n=N_ITEMS, correct_bits=bits)
    own = {"same_as": None, "fingerprint": run.fingerprint[::-1]}
    return {"accuracy": 0.25, "metrics": [metric], "items": items, **own}


@pytest.fixture(scope="module")
def of_two_commits() -> list[Summary]:
    """Runs of which three were decoded after a branch of the hub had moved."""
    moved = ("k1_middle", "k2_first", "t0.5")
    return [
        of_hub(run, "new", **mostly_wrong(run)) if run.config in moved else of_hub(run, "old")
        for run in runs(tasks=("word_problems",))
    ]


@pytest.fixture(scope="module")
def report(of_two_commits: list[Summary]) -> Report:
    return build_report(of_two_commits)


def store_results() -> None:
    """Give every run of the project a result of its current settings that is not published."""
    for run in load_project().runs:
        run.summary_path.parent.mkdir(parents=True, exist_ok=True)
        run.summary_path.write_text(json.dumps(fake_summary(run.spec())))


def test_the_answers_of_readmes_know_no_result_of_earlier_settings(project: Path) -> None:
    store_results()
    assert main(["aggregate"]) == 0
    assert [run.task for run in published(project)[0]] == ["sums", "choices"]
    task = project / "tasks/sums.yaml"
    task.write_text(task.read_text().replace("version: 1", "version: 2"))
    with pytest.raises(UserError, match="the tables in artifacts/ are not those of its published"):
        published(project)
    assert main(["aggregate"]) == 0
    assert [run.task for run in published(project)[0]] == ["choices"]
    assert len(list((project / "artifacts").glob("*/*/*/summary.json"))) == 2


def test_two_commits_of_a_hub_model_are_no_computation_and_not_compared(
    of_two_commits: list[Summary],
) -> None:
    first, moved = of_two_commits[:2]
    assert (first.config, moved.config) == ("k1_first", "k1_middle")
    assert first.computation == moved.computation and not is_same_computation(first, moved)
    comparison = compare(first, moved)
    assert comparison.verdict == f"not compared: {MOVED}"
    assert (comparison.paired, comparison.layer_forwards) == (None, None)
    assert comparison.why_not_paired == MOVED
    assert flipped_items(first, moved) == ([], [])
    shown = " ".join(comparison_text(comparison, "").split())
    assert f"not compared: {MOVED}" in shown and " x" not in shown
    # Also where only the size of the chunks differs, or the earlier result of the same run.
    for fields in ({"decides": {**moved.decides, "chunk_size": 7}}, {"computation": None}):
        other = moved.model_copy(update={**fields, "fingerprint": first.fingerprint})
        assert compare(first, other).verdict == f"not compared: {MOVED}"
    assert disagreements([run.model_dump(mode="json") for run in (first, moved)]) == []


@pytest.mark.parametrize(
    ("limit", "n_items", "title"),
    [
        (20, 20, "first 20 items"),
        (1000, 600, "limit 1000: 600 items"),
        (9, 18, "limit 9: 18 items"),
    ],
)
def test_runs_of_other_limits_are_told_apart_and_have_no_ratios(
    of_two_commits: list[Summary], limit: int, n_items: int, title: str
) -> None:
    whole = of_two_commits[0]
    how = {**whole.eval_params, "limit": limit, "n_items": n_items}
    limited = whole.model_copy(update={"eval_params": how})
    (group,) = grouped([limited])
    assert terminal_table([group]).startswith(f"00_baseline: word_problems ({title})\n")
    comparison = compare(whole, limited)
    assert comparison.why_not_paired == f"different limits: none and {limit}"
    shown = " ".join(comparison_text(comparison, "").split())
    assert f"word_problems ({title})" in shown and " x " not in shown


def test_only_one_name_of_a_hub_model_that_means_two_is_refused(a_summary: Summary) -> None:
    def run(model: str, revision: str, commit: str, shots: int) -> Summary:
        decides = {"model": model, "model_digest": revision, "num_fewshot": shots}
        how = {**a_summary.eval_params, "items_digest": f"{commit}{shots}", "model_commit": commit}
        own = {"fingerprint": f"{decides}", "decides": decides, "eval_params": how}
        return a_summary.model_copy(update=own)

    first = run("lab/a", "main", "old", 0)
    # Other prompts, on purpose; but the model's branch has moved.
    assert compare(first, run("lab/a", "main", "new", 5)).why_not_paired == MOVED
    for other in (
        ("lab/a", "main", "old", 5),
        ("lab/a", "v2", "new", 0),
        ("lab/b", "main", "x", 0),
    ):
        assert compare(first, run(*other)).paired is not None


def test_a_report_compares_runs_of_one_commit_only(report: Report) -> None:
    (task,) = report.tasks
    by_config = {run.summary.config: run for run in task.runs}
    for config in ("k1_middle", "k2_first"):
        run = by_config[config]
        assert run.finding is None and run.comparison.verdict == f"not compared: {MOVED}"
    assert by_config["k2_first"].standing is Standing.NO_CONTROL
    flipped = {name.split(" / ")[1] for name, _ in task.flips}
    assert "k3_first" in flipped and not flipped & {"k1_middle", "k2_first", "t0.5"}
    assert all(0.5 not in curve.values() for curve in task.curves.values())
    page = render_page(report)
    sentence = "Not compared with the baseline, <code>k1_middle</code>, <code>k2_first</code>, "
    assert f"<li>{sentence}<code>t0.5</code>: {MOVED}.</li>" in page
    lines = csv_table(report.groups, report.runs).splitlines()
    rows = {(row["experiment"], row["config"]): row for row in csv.DictReader(lines)}
    for column in ("difference", "p_value", "layer_forwards_ratio", "control"):
        assert rows["00_baseline", "k2_first"][column] == ""


def test_a_narrow_table_still_says_what_is_not_compared(of_two_commits: list[Summary]) -> None:
    text = terminal_table(grouped(of_two_commits)[:1], width=80)
    assert "(hidden in this narrow window: against the baseline" in text
    assert f"\nNot compared with the baseline, `k1_middle`, `k2_first`: {MOVED}.\n" in text
    lines = [line.split() for line in text.splitlines()]
    rows = {words[0]: words[3] for words in lines if len(words) == 11}
    assert (rows["k1_middle"], rows["k2_first"], rows["k2_middle"]) == ("-", "-", "-39.7")


def test_the_answer_of_an_experiment_names_runs_of_another_commit(
    of_two_commits: list[Summary],
) -> None:
    text = answer_of("00_baseline", of_two_commits, [])
    assert f"- Not compared with the baseline, `k1_middle`, `k2_first`: {MOVED}.\n" in text
    assert "| `k1_middle`" not in text and "| `k2_middle`, `k2_last` |" in text
    assert "Of 2 computations, at equal layer-forwards: 2 dominated (shown)." in text
    every = [of_two_commits[0], *(of_hub(run, "new") for run in of_two_commits[1:9])]
    text = answer_of("00_baseline", every, [])
    assert "There is nothing to compare beside the baseline and controls." in text
    assert "Not compared with the baseline, `k1_middle`, `k1_last`, `k2_first` and 5 more: " in text
