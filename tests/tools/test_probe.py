"""A probe: what is timed in the time there is, and that it is what a run does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fastdllm.cli import main
from fastdllm.runs.chunks import Answered, Listener
from fastdllm.tasks.plan import Plan, PlanHeader, PlannedRequest
from fastdllm.tools.estimate.estimates import Estimates
from fastdllm.tools.estimate.nearest import Basis
from fastdllm.tools.estimate.probing import probe, rounds
from fastdllm.tools.estimate.timing import time_plan
from fastdllm.workflow.project.runs import Run, load_project
from tests.support.measured import make_run, write_probe

ROOT = Path(__file__).parents[2]

# Seconds of the fake engine: for each call, and for each request.
WARM_UP_S, RECORDING_S = 1.0, 0.5


class Clock:
    """Time that passes only when the engine works."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class FakeEngine:
    """Takes seconds as it is told; remembers what it answered."""

    def __init__(self, clock: Clock, seconds_of: dict[str, float], batch_size: int = 8) -> None:
        self._clock, self._seconds_of, self._batch_size = clock, seconds_of, batch_size
        self.answered: list[list[str]] = []
        self.unfinished = 0.0

    def answer(self, requests: Sequence[PlannedRequest], listener: Listener) -> Answered:
        self.answered.append([request.id for request in requests])
        self.unfinished += sum(self._seconds_of[request.kind] for request in requests)
        self.unfinished += RECORDING_S
        return Answered(
            answers=(),
            recording_s=RECORDING_S,
            batch_size=min(self._batch_size, len(requests)),
            smallest_batch_size=1,
            out_of_memory=0,
        )

    def warm_up(self, requests: Sequence[PlannedRequest]) -> None:
        self.unfinished += WARM_UP_S

    def synchronize(self) -> None:
        """As on a GPU: the work is done, and its time over, only now."""
        self._clock.now += self.unfinished
        self.unfinished = 0.0

    def peak_memory_gib(self) -> float:
        return 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("fastdllm.tools.estimate.timing.time.perf_counter", clock)
    return clock


def plan_of(**chunks_of_kind: int) -> Plan:
    """Chunks of 10 requests, so many of each kind; a request is named after its chunk."""
    kinds = [kind for kind, count in chunks_of_kind.items() for _ in range(count)]
    requests = tuple(
        PlannedRequest(f"{number}.{place}", kind, "item", (1,), ())  # type: ignore[arg-type]
        for number, kind in enumerate(kinds)
        for place in range(10)
    )
    header = PlanHeader(
        task="words",
        limit=None,
        chunk_size=10,
        num_fewshot=None,
        apply_chat_template=False,
        chat_template=None,
        model_tokenizer_digest="",
        lm_eval_version="",
        n_items=len(requests),
        n_requests=len(requests),
        digest="",
        chunks=[list(range(10 * number, 10 * number + 10)) for number in range(len(kinds))],
    )
    return Plan(header=header, requests=requests)


def test_whole_chunks_from_the_middle_and_both_sides_are_timed(clock: Clock) -> None:
    engine = FakeEngine(clock, {"generate_until": 0.25})
    timing = time_plan(engine, plan_of(generate_until=8), budget_s=1000.0)
    first, *whole = engine.answered
    assert first == ["4.0", "4.1"]
    assert [ids[0] for ids in whole] == ["4.0", "2.0", "6.0"]
    assert {len(ids) for ids in whole} == {10}
    assert (timing.items, timing.seconds, timing.batch_size) == (30, 7.5, 8)
    # Warm-up and recording of shapes are no part of the speed.
    assert timing.once_s == WARM_UP_S + RECORDING_S


def test_in_little_time_the_last_that_fitted_counts(clock: Clock) -> None:
    engine = FakeEngine(clock, {"generate_until": 10.0})
    # Two requests take 21.5 s; four take 41.5 s, and eight more would not fit.
    timing = time_plan(engine, plan_of(generate_until=8), budget_s=70.0)
    assert [len(ids) for ids in engine.answered] == [2, 4]
    assert (timing.items, timing.seconds, timing.batch_size) == (4, 40.0, 4)
    assert clock.now <= 70.0


def test_two_requests_are_timed_in_no_time_at_all(clock: Clock) -> None:
    engine = FakeEngine(clock, {"generate_until": 10.0})
    timing = time_plan(engine, plan_of(generate_until=1), budget_s=-1.0)
    assert (timing.items, timing.seconds_per_item) == (2, 10.0)


def test_both_kinds_of_requests_count_as_in_the_plan(clock: Clock) -> None:
    engine = FakeEngine(clock, {"generate_until": 1.0, "loglikelihood": 0.1})
    plan = plan_of(generate_until=1, loglikelihood=3)
    timing = time_plan(engine, plan, budget_s=1000.0)
    assert timing.seconds_per_item == pytest.approx((1.0 + 3 * 0.1) / 4)


def test_tasks_come_before_experiments_and_these_before_configs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [("a", "words", "1"), ("a", "words", "2"), ("b", "words", "1"), ("a", "choices", "1")]
    runs = [make_run(config, experiment=e, task=task) for e, task, config in names]
    known = make_run("known", experiment="c")
    write_probe(known, seconds=1.0)
    estimates = Estimates.load([])
    found = [estimates.estimate(run, gpu="RTX_6000") for run in [known, *runs]]
    order = [[run.name for run in part] for part in rounds(found)]
    assert order == [
        ["a/words/1", "a/choices/1"],
        ["b/words/1"],
        ["a/words/2"],
        ["c/words/known"],
    ]


def test_no_time_is_spent_on_less_than_half_a_chunk(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fake takes all the time it is given; a whole chunk would take 40 s."""
    slices: list[tuple[str, float]] = []

    class FakeBench:
        def __init__(self, models: object) -> None:
            self.chunk_s: dict[str, float] = {}

        def measure(self, run: Run, budget_s: float) -> str:
            slices.append((run.name, budget_s))
            self.chunk_s[run.task] = 40.0
            clock.now += budget_s
            return run.name

    monkeypatch.setattr("fastdllm.tools.estimate.probing._Bench", FakeBench)
    words, choices = [make_run(config) for config in "abcd"], make_run(task="choices")
    list(probe([words], seconds=130.0))
    # A quarter of the time for the first; of the 17.5 s behind the third nothing comes.
    assert slices == [("base/words/a", 32.5), ("base/words/b", 40.0), ("base/words/c", 40.0)]
    slices.clear()
    clock.now = 0.0
    list(probe([[words[0], choices], words[1:]], seconds=120.0))
    assert slices == [("base/words/a", 60.0), ("base/choices/k1", 60.0)]


@pytest.mark.usefixtures("project")
def test_a_probe_of_a_real_model_makes_the_plans_and_the_estimate(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["estimate", "--probe", "--minutes", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["totals"]["runs"] == 2
    assert told["totals"]["runs_unknown"] == 0
    assert {run["source"] for run in told["runs"]} == {Basis.PROBE.value}
    by_task: dict[str, dict[str, Any]] = {run["task"]: run for run in told["runs"]}
    # Eight documents ask three questions, with three options each.
    assert (by_task["sums"]["items_left"], by_task["choices"]["items_left"]) == (10, 9)
    assert all(run["minutes_to_ask_for"] == 10 for run in told["runs"])
    record = json.loads(next(Path("results/_probes").glob("*.json")).read_text())
    sums = next(one for one in record["measurements"] if one["task"] == "sums")
    # Of four chunks the last three, which have one request in the end; auto takes all of a chunk.
    assert (sums["batch_size"], sums["items"]) == (3, 7)
    assert record["hardware"]["threads"] == 1
    # The plans are those that the workflow makes.
    for plan in load_project().plans:
        assert json.loads(plan.made_from_path.read_text()) == plan.spec()
        assert plan.plan_path.exists()
    # Nothing is decoded for the run itself.
    assert not Path("results/trial").exists()


@pytest.mark.usefixtures("project")
def test_what_is_not_known_is_said_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "--task", "sums", "--gpu", "H100"]) == 0
    out = capsys.readouterr().out
    assert "sums: not planned yet; type: fastdllm plan --task sums" in out
    assert "nothing measured on H100: trial/sums (1)" in out
    assert "fastdllm estimate --probe" in out


@pytest.mark.usefixtures("project")
def test_the_gpu_of_a_profile_is_the_one_that_its_jobs_ask_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["estimate", "--profile", str(ROOT / "profiles/pace"), "--task", "sums"]) == 0
    out = capsys.readouterr().out
    assert "nothing measured on RTX_6000: trial/sums (1)" in out
    assert f"snakemake --profile {ROOT / 'profiles/pace'} probe" in out


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--minutes", "1"], "--minutes: says how long --probe measures"),
        (["--probe", "--gpu", "V100"], "--gpu: --probe measures the hardware it runs on"),
        (["--profile", "profiles/pac"], "--profile profiles/pac: has no site.yaml"),
        (["--profile", "profiles/pace", "--gpu", "V100"], "--profile: says which GPU, as does"),
        (["--jobs", "0"], "'0' is not allowed"),
        (["--probe", "--minutes", "soon"], "'soon' is not allowed"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["estimate", *arguments]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
