"""What a person reads of an estimate: the table, its sources, and what it leaves out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fastdllm.tools.estimate.budget import Budget, budget_of
from fastdllm.tools.estimate.budget_text import BudgetQuestion, as_record, as_text, hours
from fastdllm.tools.estimate.estimates import Estimates
from fastdllm.workflow.splitting import JobSplit
from tests.support.measured import V100, make_run, write_plan, write_summary, write_trial

ASKED = BudgetQuestion("RTX_6000", "models/tiny", "auto", jobs_at_once=2, busy=3, gpu="RTX_6000")

KNOWN = """\
on RTX_6000, models/tiny in auto

experiment  task   runs  jobs  items left  s/item  hours/job  GPU-hours  from
base        words     2     2         200    90.0       3.01       5.02  earlier runs (2)
total                 2     2         200                          5.02

2 jobs at a time: 3.01 hours, without waiting in a queue (--jobs N)
imports and scoring were never measured here, and are not included
3 running or queued, not included
"""
UNKNOWN = """\
on RTX_6000, models/tiny in auto

experiment       task   runs  jobs  items left  s/item  hours/job  GPU-hours  from
base             words     1     1         100    72.0       2.01       2.01  earlier runs (1)
base             other     1     1          10       ?          ?          ?  nothing measured (1)
total, at least            2     2         110                          2.01

2 jobs at a time: at least 2.01 hours, without waiting in a queue (--jobs N)
imports and scoring were never measured here, and are not included
3 running or queued, not included
nothing measured on RTX_6000: base/other (1)
  measured on other hardware: Tesla V100-PCIE-16GB (--gpu NAME)
  decode some items first: snakemake --profile profiles/pace --config limit=20 gpu=RTX_6000
"""


@pytest.fixture(autouse=True)
def _in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def known() -> tuple[Budget, BudgetQuestion, Estimates]:
    """100 items of 72 s, and 100 of 108 s; a start takes 30 s each."""
    first, second = make_run("a"), make_run("b")
    write_summary(first, seconds=7200.0)
    write_trial(second, seconds=2160.0)
    estimates = Estimates.load([])
    estimated = [estimates.estimate(run, gpu="RTX_6000") for run in (first, second)]
    return budget_of(estimated, JobSplit()), ASKED, estimates


def test_the_table_says_where_its_figures_come_from() -> None:
    assert as_text(*known()) == KNOWN


def test_what_is_not_known_is_named_with_what_to_type() -> None:
    first, other = make_run("a"), make_run("a", task="other")
    write_summary(first, seconds=7200.0)
    write_summary(make_run("b"), seconds=3600.0, hardware=V100)
    write_plan(other, 10)
    estimates = Estimates.load([])
    budget = budget_of(
        [estimates.estimate(run, gpu="RTX_6000") for run in (first, other)], JobSplit()
    )
    assert as_text(budget, ASKED, estimates) == UNKNOWN
    text = as_text(budget, replace(ASKED, gpu=None), estimates)
    assert "decode some items first: snakemake --profile profiles/local --config limit=20\n" in text


def test_another_batch_size_is_said() -> None:
    run = make_run(batch_size=8)
    write_plan(run, 100)
    write_trial(run, seconds=10.0, batch_size=2)
    estimates = Estimates.load([])
    budget = budget_of([estimates.estimate(run, gpu="RTX_6000")], JobSplit())
    assert "earlier runs (1), at batch size 2, not the runs' own\n" in as_text(
        budget, ASKED, estimates
    )


def test_the_record_leaves_out_what_is_not_known() -> None:
    record = as_record(*known())
    assert record["totals"] == {
        "runs": 2,
        "runs_unknown": 0,
        "running_or_queued": 3,
        "jobs": 2,
        "gpu_hours": pytest.approx(18060 / 3600),
        "jobs_at_once": 2,
        "wall_clock_hours": pytest.approx(10830 / 3600),
    }
    first = record["runs"][0]
    assert first["source"] == "earlier runs"
    # 30 + 180 + 1.5 x 7200 s.
    assert (first["decoding_s"], first["minutes_to_ask_for"]) == (7200.0, 184)
    assert "outside_s" not in first


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "?"), (3.6, "0.00100"), (3600.0, "1.00"), (45000.0, "12.5"), (4.5e6, "1,250")],
)
def test_hours_have_three_digits_that_count(seconds: float | None, text: str) -> None:
    assert hours(seconds) == text
