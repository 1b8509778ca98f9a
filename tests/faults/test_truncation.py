"""A budget that cuts answers short is not taken for the accuracy of a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastdllm.cli import main
from fastdllm.records.summary import Summary, read_summary, write_summary
from fastdllm.report.content import build_report
from fastdllm.report.groups import grouped
from fastdllm.report.page import render_page
from fastdllm.report.sentences import answer_of
from fastdllm.report.text_tables import terminal_table
from fastdllm.statistics.comparison import compare
from fastdllm.statistics.comparison_text import comparison_text
from fastdllm.statistics.truncation import is_marked, truncation_words
from fastdllm.workflow.project.runs import load_project


def cut(summary: Summary, rate: float | None, config: str = "k2_last") -> Summary:
    how = {**summary.eval_params, "n_requests": 100, "max_gen_toks": 96}
    return summary.model_copy(
        update={"truncation_rate": rate, "config": config, "eval_params": how}
    )


@pytest.mark.parametrize(
    ("rate", "marked"), [(None, False), (0.0, False), (0.02, False), (0.020001, True), (1.0, True)]
)
def test_more_than_two_per_cent_are_marked(
    a_summary: Summary, rate: float | None, *, marked: bool
) -> None:
    assert is_marked(rate) is marked
    runs = [cut(a_summary, 0.0, "k1_first"), cut(a_summary, rate)]
    table = terminal_table(grouped(runs))
    assert ("80.0!" in table) is marked
    assert ("! 1 of 2 runs with more than 2 % of the answers truncated" in table) is marked
    text = comparison_text(compare(*runs), "")
    assert ("truncated: " in text) is marked
    page = render_page(build_report(runs))
    assert ('<span class="mark">truncated answers</span>' in page) is marked
    assert ("1 of 2 runs with more than 2 %" in page) is marked
    assert ("truncated at their budget" in answer_of("00_baseline", runs, [])) is marked


def test_words_name_number_and_budget(a_summary: Summary) -> None:
    assert truncation_words(cut(a_summary, 0.03)) == "3 of 100 answers at max_gen_toks 96"
    older = a_summary.model_copy(update={"truncation_rate": 0.4})
    assert truncation_words(older) == "2 of 5 answers"


def test_status_names_the_runs(
    project: Path, a_summary: Summary, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in load_project().all_runs:
        rate = 0.03 if run.task == "sums" else None
        own = {"fingerprint": run.fingerprint, "decides": run.decides, "task": run.task}
        summary = cut(a_summary, rate, run.config)
        of_run = summary.model_copy(update={**own, "experiment": run.experiment})
        write_summary(project / run.summary_path, of_run)
    assert main(["status"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "truncated" in line]
    assert lines == [
        "unpublished  trial/sums/plain: not yet copied to artifacts/; more than 2 % of the answers "
        "truncated at their budget"
    ]
    assert main(["status", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert {run["task"]: run.get("truncated") for run in runs} == {"sums": True, "choices": None}


def test_a_run_records_its_budget(make_plan_on_disk: Any, make_spec: Any) -> None:
    make_plan_on_disk()
    spec = make_spec()
    assert main(["eval", str(spec)]) == 0
    summary = read_summary(spec.with_name("summary.json"))
    assert summary.eval_params["max_gen_toks"] == 24
    make_plan_on_disk("choices")
    spec = make_spec("choices")
    assert main(["eval", str(spec)]) == 0
    summary = read_summary(spec.with_name("summary.json"))
    assert "max_gen_toks" not in summary.eval_params
    assert not is_marked(summary.truncation_rate)
