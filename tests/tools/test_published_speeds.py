"""Hours where nothing was measured: from the speeds that others published, with their source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fastdllm.records.published import published
from fastdllm.settings import DecodingSettings
from fastdllm.tasks.plan import PlannedRequest, write_plan
from fastdllm.tools.estimate.budget import budget_of
from fastdllm.tools.estimate.budget_text import BudgetQuestion, as_record, as_text
from fastdllm.tools.estimate.estimates import Estimates
from fastdllm.tools.estimate.nearest import Basis
from fastdllm.workflow.project.runs import Run
from fastdllm.workflow.splitting import JobSplit
from tests.support.fakes import fake_plan
from tests.support.measured import MeasuredHardware, make_run, write_summary

SEVEN_B = "Efficient-Large-Model/Fast_dLLM_v2_7B"
ITEMS, LIMIT = 40, 2048


@pytest.fixture(autouse=True)
def _in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def planned_run(*, kind: str = "generate_until", threshold: float = 0.9, **changes: Any) -> Run:
    """A run of the 7B model whose task is planned."""
    settings = DecodingSettings(threshold=threshold).model_dump()
    decides = {f"decoding.{key}": value for key, value in settings.items()}
    wishes = {"task": "gsm8k", "model": SEVEN_B} | decides | changes
    of_task = {one.figure.task: one.task for one in published()}.get(wishes["task"])
    run = make_run(**{"task_definition": of_task and of_task.definition} | wishes)
    generates = kind == "generate_until"
    requests = [
        PlannedRequest(
            id=str(index),
            kind=kind,  # type: ignore[arg-type]
            item=f"{run.task}:{index}",
            prompt_ids=(1, 2),
            args=("question", str(index)),
            target_ids=() if generates else (3,),
            gen_kwargs={"max_gen_toks": LIMIT} if generates else {},
        )
        for index in range(ITEMS)
    ]
    plan = fake_plan(requests, task=run.task, chunk_size=ITEMS)
    write_plan(run.plan_folder, plan, made_from="x")
    return run


def test_published_tokens_per_answer_and_per_second_give_the_hours_and_are_named() -> None:
    run = planned_run()
    estimates = Estimates.load([])
    estimate = estimates.estimate(run, gpu="A100", takes_published=True)
    assert estimate.basis is Basis.PUBLISHED
    assert estimate.decoding_s == pytest.approx(ITEMS * 331 / 101.7)
    asked = BudgetQuestion("A100", SEVEN_B, "auto", jobs_at_once=1, gpu="A100")
    budget = budget_of([estimate], JobSplit())
    text = as_text(budget, asked, estimates)
    assert "published by others (1)" in text
    assert (
        "gsm8k: published 101.7 tokens/s (arXiv 2509.26328, Figure 4 and section 4.2; A100, batch "
        "size not stated), 331 tokens per answer (mgustineli's fork of Fast-dLLM, results.md)\n"
    ) in text
    assert as_record(budget, asked, estimates)["runs"][0]["published"].startswith("gsm8k: publish")


def test_the_limit_of_a_task_bounds_answers_of_unknown_length() -> None:
    speed = (
        Estimates.load([])
        .estimate(planned_run(task="minerva_math"), gpu="A100", takes_published=True)
        .speed
    )
    assert speed is not None and speed.seconds_per_item == pytest.approx(LIMIT / 101.7)
    assert speed.note is not None
    assert speed.note.startswith("minerva_math: published on gsm8k 101.7 tokens/s")
    assert speed.note.endswith("2,048 tokens per answer, its limit: an upper bound")


@pytest.mark.parametrize("changes", [{"task_definition": "edited"}, {"num_fewshot": 5}])
def test_answers_to_other_prompts_are_of_unknown_length(changes: dict) -> None:
    run = planned_run(**changes)
    speed = Estimates.load([]).estimate(run, gpu="A100", takes_published=True).speed
    assert speed is not None and speed.seconds_per_item == pytest.approx(LIMIT / 101.7)


def test_one_token_per_step_has_a_speed_of_its_own() -> None:
    run = planned_run(threshold=1.0)
    speed = Estimates.load([]).estimate(run, gpu="A100", takes_published=True).speed
    assert speed is not None and speed.seconds_per_item == pytest.approx(331 / 39.1)


@pytest.mark.parametrize(
    ("gpu", "changes"),
    [
        ("H100", {}),
        ("A100", {"model": "local"}),
        ("A100", {"model": SEVEN_B.replace("7B", "1.5B")}),
        ("A100", {"threshold": 0.5}),
        ("A100", {"kind": "loglikelihood"}),
    ],
)
def test_where_no_figure_fits_nothing_is_said(gpu: str, changes: dict) -> None:
    run = planned_run(**changes)
    assert Estimates.load([]).estimate(run, gpu=gpu, takes_published=True).speed is None


def test_what_was_measured_comes_first_and_jobs_ask_for_no_time_by_what_was_not() -> None:
    run = planned_run()
    estimates = Estimates.load([])
    assert estimates.minutes(run, gpu="A100") is None
    write_summary(run, seconds=80.0, items=ITEMS, hardware=MeasuredHardware("NVIDIA A100"))
    measured = Estimates.load([]).estimate(run, gpu="A100", takes_published=True)
    assert measured.basis is Basis.SETTINGS
    assert measured.speed is not None and measured.speed.seconds_per_item == 2.0


def test_the_hours_beside_the_tasks_are_those_of_an_estimate() -> None:
    """In the comments of workflow_config.yaml: items, times tokens, over tokens per second."""
    text = (Path(__file__).parents[2] / "workflow_config.yaml").read_text(encoding="utf-8")
    line = re.compile(r"  # (\w+): +# ([\d,]+) .*; (at most )?([\d.]+) h$", flags=re.M)
    found = line.findall(text)
    assert {task for task, *_ in found} == {"gsm8k", "minerva_math", "ifeval", "humaneval", "mbpp"}
    for task, items, is_bound, hours in found:
        speed = (
            Estimates.load([])
            .estimate(planned_run(task=task), gpu="A100", takes_published=True)
            .speed
        )
        assert speed is not None and speed.note is not None
        assert ("upper bound" in speed.note) is bool(is_bound)
        expected = int(items.replace(",", "")) * speed.seconds_per_item / 3600
        assert hours == f"{expected:.{len(hours.partition('.')[2])}f}"
