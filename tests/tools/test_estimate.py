"""Estimates: items left times measured seconds, and nothing where nothing was measured."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from fastdllm.tools.estimate import paces
from fastdllm.tools.estimate.budget import budget_of
from fastdllm.tools.estimate.estimates import ALLOWANCE_S, LEAST_MINUTES, SAFETY, Estimates
from fastdllm.tools.estimate.hardware import MeasuredHardware
from fastdllm.tools.estimate.nearest import Basis
from fastdllm.workflow.project.artifacts import stored_summary
from fastdllm.workflow.splitting import JobSplit
from tests.support.measured import (
    RTX,
    V100,
    make_run,
    write_answers,
    write_plan,
    write_summary,
    write_trial,
)

GPU = "RTX_6000"


@pytest.fixture(autouse=True)
def _in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_minutes_are_start_and_allowance_and_decoding_with_a_margin() -> None:
    earlier, run = make_run(seed=1), make_run()
    write_summary(earlier, seconds=4000.0)
    estimates = Estimates.load([run])
    # Load 20 s, warm-up 4 s, recording 6 s; 100 items of 40 s.
    expected_s = 30.0 + ALLOWANCE_S + SAFETY * 4000.0
    assert expected_s == 6210.0
    assert estimates.minutes(run, gpu=GPU) == 104
    assert estimates.minutes(run, gpu=GPU, attempt=2) == 208
    assert estimates.minutes(run, gpu=GPU, attempt=3) == 416
    # A quarter of the items: 30 + 180 + 1.5 x 1000 s.
    assert estimates.minutes(run, gpu=GPU, share=0.25) == 29


def test_a_short_run_asks_for_the_least() -> None:
    run = make_run()
    write_summary(make_run(seed=1), seconds=1.0)
    estimates = Estimates.load([run])
    assert estimates.minutes(run, gpu=GPU) == LEAST_MINUTES
    assert estimates.minutes(run, gpu=GPU, attempt=2) == 2 * LEAST_MINUTES


def test_a_pack_loads_once() -> None:
    runs = [make_run(f"k{number}") for number in (1, 2, 3)]
    for run in runs:
        write_summary(make_run(run.config, seed=1), seconds=1000.0)
    estimates = Estimates.load(runs)
    # 30 + 180 + 3 x 1.5 x 1000 s.
    assert estimates.minutes_of_pack(runs, gpu=GPU) == 79
    unknown = make_run(task="other")
    assert estimates.minutes_of_pack([*runs, unknown], gpu=GPU) is None


def test_nothing_measured_is_none_and_never_a_number() -> None:
    run = make_run()
    write_plan(run, 100)
    write_summary(make_run(task="other"), seconds=10.0)
    write_summary(make_run("another_model", model_digest="n"), seconds=10.0)
    write_summary(make_run("another_dtype", dtype="float32"), seconds=10.0, dtype="float32")
    write_summary(make_run("another_gpu"), seconds=10.0, hardware=V100)
    estimates = Estimates.load([run])
    estimate = estimates.estimate(run, gpu=GPU)
    assert (estimate.items_left, estimate.basis, estimate.decoding_s) == (100, Basis.NONE, None)
    assert estimates.minutes(run, gpu=GPU) is None
    assert estimates.minutes(run, gpu="V100") == LEAST_MINUTES
    assert estimates.measured_hardware() == [RTX, V100]


def test_a_task_of_unknown_size_is_none() -> None:
    run = make_run(task="other")
    write_trial(run, seconds=10.0)
    estimates = Estimates.load([run])
    assert estimates.estimate(run, gpu=GPU).items_left is None
    assert estimates.minutes(run, gpu=GPU) is None
    write_plan(run, 40)
    assert Estimates.load([run]).estimate(run, gpu=GPU).decoding_s == 20.0


def test_a_dtype_of_that_name_counts_where_auto_came_to_it() -> None:
    write_summary(make_run(dtype="auto"), seconds=10.0, dtype="float16")
    run = make_run(dtype="float16")
    assert Estimates.load([run]).estimate(run, gpu=GPU).decoding_s == 10.0


def test_the_nearest_measurement_counts() -> None:
    run = make_run()
    write_plan(run, 100)

    def basis_and_seconds() -> tuple[Basis, float | None]:
        estimate = Estimates.load([run]).estimate(run, gpu=GPU)
        return estimate.basis, estimate.decoding_s

    # From the farthest to the nearest, each takes over from the one before.
    for config, seconds in (("a", 100.0), ("b", 200.0), ("c", 900.0)):
        write_summary(make_run(config), seconds=seconds)
    assert basis_and_seconds() == (Basis.TASK, 200.0)
    # Other settings under its own name are one more config of the task.
    write_summary(make_run(seed=1), seconds=400.0)
    assert basis_and_seconds() == (Basis.TASK, 300.0)
    write_trial(run, seconds=100.0, items=20)
    assert basis_and_seconds() == (Basis.SETTINGS, 500.0)
    # A finished run has more items than a trial.
    write_summary(run, seconds=600.0, published=True)
    assert basis_and_seconds() == (Basis.SETTINGS, 600.0)
    write_answers(run, {0: 70.0})
    assert basis_and_seconds() == (Basis.CHUNKS, 630.0)


def test_a_trial_of_the_same_settings_tells_of_the_whole_run() -> None:
    trial, run = make_run(limit=20), make_run()
    write_summary(trial, seconds=10.0, items=20)
    write_plan(run, 100)
    estimate = Estimates.load([run]).estimate(run, gpu=GPU)
    assert (estimate.basis, estimate.decoding_s) == (Basis.SETTINGS, 50.0)


def test_a_trial_tells_of_its_own_kind_of_gpu() -> None:
    run = make_run()
    write_plan(run, 100)
    write_trial(run, seconds=10.0)
    write_trial(run, seconds=4.0, hardware=V100)
    estimates = Estimates.load([run])
    assert estimates.estimate(run, gpu=GPU).decoding_s == 50.0
    assert estimates.estimate(run, gpu="V100").decoding_s == 20.0
    assert estimates.estimate(run, gpu="H200").basis is Basis.NONE


def test_the_same_computation_elsewhere_counts_as_the_same_settings() -> None:
    leader, run = make_run("plain", experiment="first"), make_run("t0.9", experiment="second")
    write_summary(leader, seconds=10.0, computation=run.computation)
    estimate = Estimates.load([run]).estimate(run, gpu=GPU)
    assert (estimate.basis, estimate.decoding_s) == (Basis.SETTINGS, 10.0)


def test_a_copy_does_not_count_again() -> None:
    for config, seconds in (("a", 100.0), ("b", 200.0), ("c", 300.0)):
        write_summary(make_run(config), seconds=seconds)
    for config in ("d", "e"):
        write_summary(make_run(config), seconds=300.0, same_as={"config": "c"})
    run = make_run()
    assert Estimates.load([run]).estimate(run, gpu=GPU).decoding_s == 200.0


def test_a_summary_in_both_folders_counts_once(tmp_path: Path) -> None:
    path = write_summary(make_run("a"), seconds=100.0)
    copy = tmp_path / "artifacts/base/words/a/summary.json"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(path.read_bytes())
    write_summary(make_run("b"), seconds=200.0)
    run = make_run()
    assert Estimates.load([run]).estimate(run, gpu=GPU).decoding_s == 150.0


def test_finished_chunks_are_taken_off_and_set_the_speed_of_their_gpu() -> None:
    run = make_run()
    write_plan(run, 100)
    write_answers(run, {0: 40.0, 1: 20.0})
    write_answers(run, {2: 6.0}, hardware=V100)
    write_trial(run, seconds=14.0, hardware=MeasuredHardware("NVIDIA H200"))
    estimates = Estimates.load([run])
    rtx, v100, h200 = (estimates.estimate(run, gpu=gpu) for gpu in (GPU, "V100", "H200"))
    assert (rtx.items_left, v100.items_left, h200.items_left) == (70, 70, 70)
    assert rtx.decoding_s == pytest.approx(70 * 60 / 20)
    assert v100.decoding_s == pytest.approx(70 * 6 / 10)
    assert h200.decoding_s == pytest.approx(70 * 14 / 20)
    assert (rtx.basis, h200.basis) == (Basis.CHUNKS, Basis.SETTINGS)
    # Load 20 s and warm-up 4 s of the process, recording 1 s in each of its two chunks.
    assert rtx.startup_s == 26.0


def test_chunks_of_a_paused_process_say_nothing_of_its_speed() -> None:
    run, other = make_run(), make_run("b")
    write_plan(run, 100)
    write_answers(run, {0: 40.0, 1: 9_000.0}, paused=[1])
    write_answers(other, {0: 9_000.0, 1: 30.0}, paused=[0])
    write_summary(other, seconds=None)
    estimates = Estimates.load([run, make_run("c")])
    here, elsewhere = (estimates.estimate(r, gpu=GPU) for r in (run, make_run("c")))
    assert (here.items_left, here.decoding_s) == (80, pytest.approx(80 * 40 / 10))
    assert elsewhere.decoding_s == pytest.approx(100 * 30 / 10)


def test_chunks_of_shards_count_once_each() -> None:
    run = make_run()
    write_plan(run, 100)
    write_answers(run, {0: 10.0, 1: 20.0})
    write_answers(run, {0: 10.0, 2: 30.0}, name="shards/1-of-2.jsonl")
    write_answers(run, {3: 40.0}, name="shards/2-of-2.jsonl")
    write_answers(run, {4: 90.0}, name="shards/2-of-2.01234567.20260101T000000Z.jsonl")
    estimate = Estimates.load([run]).estimate(run, gpu=GPU)
    assert (estimate.items_left, estimate.decoding_s) == (60, pytest.approx(60 * 100 / 40))
    # A half of 100 items is less than what is left.
    assert estimate.share_s(0.5) == pytest.approx(50 * 100 / 40)
    assert estimate.share_s(1.0) == estimate.decoding_s


def test_answers_of_other_settings_and_torn_lines_do_not_count() -> None:
    run = make_run()
    write_plan(run, 100)
    write_answers(make_run(seed=1), {0: 1.0, 1: 1.0})
    assert Estimates.load([run]).estimate(run, gpu=GPU).items_left == 100
    path = write_answers(run, {0: 10.0, 1: 20.0}, name="answers.jsonl")
    path.write_bytes(path.read_bytes()[:-40])
    estimate = Estimates.load([run]).estimate(run, gpu=GPU)
    assert (estimate.items_left, estimate.decoding_s) == (90, 90.0)


def test_a_finished_run_that_is_repeated_has_everything_left() -> None:
    run = make_run()
    write_summary(run, seconds=50.0)
    write_answers(run, {0: 5.0, 1: 5.0})
    estimate = Estimates.load([run]).estimate(run, gpu=GPU)
    assert (estimate.items_left, estimate.decoding_s) == (100, 50.0)


def test_log_likelihoods_are_timed_by_the_answers_that_are_here() -> None:
    first, run = make_run("first", task="choices"), make_run(task="choices")
    write_summary(first, seconds=None, items=20)
    assert Estimates.load([run]).minutes(run, gpu=GPU) is None
    write_answers(first, {0: 3.0, 1: 5.0})
    estimate = Estimates.load([run]).estimate(run, gpu=GPU)
    assert (estimate.basis, estimate.decoding_s, estimate.startup_s) == (Basis.TASK, 8.0, 26.0)


def test_a_summary_tells_of_log_likelihoods_too_where_no_answers_are() -> None:
    first, run = make_run("first", task="choices"), make_run(task="choices")
    write_summary(first, seconds=None, items=20, decoding_s=8.0)
    estimate = Estimates.load([run]).estimate(run, gpu=GPU)
    assert (estimate.basis, estimate.decoding_s, estimate.startup_s) == (Basis.TASK, 8.0, 24.0)


def test_a_run_on_mixed_hardware_tells_of_each_from_its_answers() -> None:
    first, run = make_run("first"), make_run()
    both = [{"device": "cuda", "name": one.name} for one in (RTX, V100)]
    write_summary(first, seconds=None, items=20, hardware=RTX, resumed=True)
    record = json.loads(first.summary_path.read_text()) | {"hardware": both}
    first.summary_path.write_text(json.dumps(record))
    write_answers(first, {0: 6.0})
    write_answers(first, {1: 2.0}, hardware=V100)
    estimates = Estimates.load([run])
    assert estimates.estimate(run, gpu=GPU).decoding_s == pytest.approx(20 * 0.6)
    assert estimates.estimate(run, gpu="V100").decoding_s == pytest.approx(20 * 0.2)


def test_the_runs_own_batch_size_is_preferred_and_another_is_told() -> None:
    run = make_run(batch_size=8)
    write_summary(make_run("k1", seed=1), seconds=100.0, batch_size=2)
    estimate = Estimates.load([run]).estimate(run, gpu=GPU)
    assert estimate.speed is not None
    assert (estimate.decoding_s, estimate.speed.batch_size) == (100.0, 2)
    write_summary(make_run("k1", seed=2), seconds=40.0, batch_size=8, published=True)
    estimate = Estimates.load([run]).estimate(run, gpu=GPU)
    assert estimate.speed is not None
    assert (estimate.decoding_s, estimate.speed.batch_size) == (40.0, None)


def test_a_median_of_the_batch_size_comes_before_the_run_itself_at_another() -> None:
    run = make_run()
    write_plan(run, 100)
    write_trial(run, seconds=2.0, items=2, batch_size=2)
    estimate = Estimates.load([run]).estimate(run, gpu=GPU)
    assert (estimate.basis, estimate.decoding_s) == (Basis.SETTINGS, 100.0)
    for config, seconds in (("a", 10.0), ("b", 30.0)):
        write_summary(make_run(config), seconds=seconds)
    estimate = Estimates.load([run]).estimate(run, gpu=GPU)
    assert (estimate.basis, estimate.decoding_s) == (Basis.TASK, 20.0)


@pytest.mark.parametrize(
    ("asked", "measured", "items", "is_told"),
    [
        (4, 4, 100, False),
        # A chunk has 10 requests, so 64 at once are 10.
        (64, 10, 100, False),
        (64, 4, 100, True),
        ("auto", 10, 100, False),
        # Six at once out of a hundred: what memory allowed.
        ("auto", 6, 100, False),
        # All six that there were: memory may allow more.
        ("auto", 6, 6, True),
    ],
)
def test_when_a_batch_size_is_the_runs(
    asked: int | str, measured: int, items: int, *, is_told: bool
) -> None:
    run = make_run(batch_size=asked)
    write_plan(run, 100)
    write_trial(run, seconds=10.0, items=items, batch_size=measured)
    speed = Estimates.load([run]).estimate(run, gpu=GPU).speed
    assert speed is not None
    assert (speed.batch_size is not None) == is_told


def test_the_size_of_a_trial_follows_from_the_whole_task() -> None:
    write_summary(
        make_run(task="choices"),
        seconds=None,
        eval_params={"n_items": 50, "n_requests": 200, "batch_size": 4},
    )
    trial, large = make_run(task="choices", limit=5), make_run(task="choices", limit=80)
    estimates = Estimates.load([])
    assert (estimates.items_of(trial), estimates.items_of(large)) == (20, 200)


def test_an_earlier_start_of_the_model_stands_in_for_an_unmeasured_one() -> None:
    run = make_run()
    write_plan(run, 100)
    write_answers(run, {0: 10.0}, load_s=None)
    assert Estimates.load([run]).estimate(run, gpu=GPU).startup_s is None
    write_trial(make_run("k2"), seconds=10.0)
    assert Estimates.load([run]).estimate(run, gpu=GPU).startup_s == 30.0


def test_what_a_job_takes_besides_is_what_snakemake_measured() -> None:
    first, run = make_run("first"), make_run()
    path = write_summary(first, seconds=100.0)
    clock = Path("logs/eval/base/words/first.benchmark.tsv")
    clock.parent.mkdir(parents=True)
    clock.write_text("s\th:m:s\n142.5\t0:02:22\n")
    # 142.5 s, of which 30 s were the start and 100 s decoding.
    assert Estimates.load([run]).estimate(run, gpu=GPU).outside_s == 12.5
    # A summary taken back later is not of that job.
    os.utime(path, (time.time() + 60, time.time() + 60))
    assert Estimates.load([run]).estimate(run, gpu=GPU).outside_s is None


def test_a_damaged_file_is_no_measurement() -> None:
    run = make_run()
    write_summary(make_run("a"), seconds=100.0, eval_params={})
    write_summary(make_run("b"), seconds=0.0)
    write_trial(run, seconds=1.0)
    next(Path("results/base").glob("words_limit_*/*/summary.json")).write_text("{}")
    assert Estimates.load([run]).minutes(run, gpu=GPU) is None


def test_jobs_at_once_end_with_the_longest() -> None:
    runs = [make_run(name) for name in "abc"]
    for run, seconds in zip(runs, (300.0, 200.0, 100.0), strict=True):
        write_summary(run, seconds=seconds)
    estimates = Estimates.load([])
    budget = budget_of([estimates.estimate(run, gpu=GPU) for run in runs], JobSplit())
    # Each job starts in 30 s.
    assert budget.gpu_s == 690.0
    assert budget.wall_clock_s(1) == 690.0
    assert budget.wall_clock_s(2) == 360.0
    assert budget.wall_clock_s(50) == 330.0
    row = budget.rows[0]
    assert (row.runs, row.jobs, row.items_left, row.longest_job_s) == (3, 3, 300, 330.0)
    assert row.seconds_per_item == 2.0


def test_packs_and_shards_are_counted_as_jobs() -> None:
    runs = [make_run(name) for name in "abc"]
    for run in runs:
        write_summary(run, seconds=100.0)
    estimates = Estimates.load([])
    found = [estimates.estimate(run, gpu=GPU) for run in runs]
    budget = budget_of(found, JobSplit(shards={runs[2].name: 4}, packs={"p": (runs[0], runs[1])}))
    # One start and two runs; four starts and a quarter of a run each.
    assert sorted(job.seconds or 0 for job in budget.jobs) == [55.0] * 4 + [230.0]
    assert budget.gpu_s == 450.0
    assert budget.rows[0].gpu_s == 450.0


def test_a_sum_without_an_unknown_run_says_so() -> None:
    known, unknown = make_run("a"), make_run(task="other")
    write_summary(known, seconds=100.0)
    write_plan(unknown, 10)
    estimates = Estimates.load([])
    budget = budget_of([estimates.estimate(run, gpu=GPU) for run in (known, unknown)], JobSplit())
    assert [one.run for one in budget.unknown] == [unknown]
    assert budget.gpu_s == 130.0
    assert budget.rows[1].gpu_s is None


def test_each_summary_is_read_once_for_all_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [make_run(f"k{number}") for number in range(20)]
    for run in runs:
        write_summary(make_run(run.config, seed=1), seconds=100.0)
        write_summary(make_run(run.config, seed=2), seconds=100.0, published=True)
    read: list[Path] = []

    def counted(path: Path) -> Any:
        read.append(path)
        return stored_summary(path)

    monkeypatch.setattr(paces, "stored_summary", counted)
    estimates = Estimates.load(runs)
    assert {estimates.minutes(run, gpu=GPU) for run in runs} == {LEAST_MINUTES}
    assert len(read) == len(set(read)) == 40
