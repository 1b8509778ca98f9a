"""Batch sizes: what is decoded at once changes no run, and is recorded with what it cost."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fastdllm.common.errors import UserError
from fastdllm.decoding.events import Observer, OutOfMemory, PassRecord, SlotsChosen
from fastdllm.decoding.likelihood import Likelihood
from fastdllm.decoding.passes import PassRunner
from fastdllm.decoding.work import Work
from fastdllm.runs import chunk_engine as generate
from fastdllm.runs.answer_records import Answer, Chunk
from fastdllm.runs.chunk_engine import DecodingEngine
from fastdllm.runs.loaded_model import KeptModel, load_engine, load_plan_tokenizer
from fastdllm.runs.spec import read_spec
from fastdllm.runs.summarize import Decoded
from tests.runs.test_evaluate import answers_in, finish
from tests.support.fakes import FakeFlight
from tests.support.run_project import silent


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many sequences each pass held."""
    sizes: list[int] = []
    run = PassRunner.run

    def counted(self: PassRunner, works: list[Work], *rest: Any) -> Any:
        sizes.append(len(works))
        return run(self, works, *rest)

    monkeypatch.setattr(PassRunner, "run", counted)
    return sizes


@pytest.fixture
def short_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass with more than two sequences lacks memory."""
    run = PassRunner.run

    def scarce(self: PassRunner, works: list[Work], *rest: Any) -> Any:
        if len(works) > 2:
            raise torch.OutOfMemoryError("out of memory (as told)")
        return run(self, works, *rest)

    monkeypatch.setattr(PassRunner, "run", scarce)


def engine_of(spec_path: Path, plan: Any) -> DecodingEngine:
    spec = read_spec(spec_path)
    tokenizer = load_plan_tokenizer(spec, plan)
    return load_engine(spec, plan, tokenizer, device="cpu", models=KeptModel())[0]


def batch_sizes_in(folder: Path) -> list[tuple[int, int]]:
    """Of each chunk: the batch size, and the smallest."""
    records = [json.loads(line) for line in (folder / "answers.jsonl").open()]
    chunks = [record for record in records if record["record"] == "chunk"]
    return [(chunk["batch_size"], chunk["smallest_batch_size"]) for chunk in chunks]


def test_a_chunk_is_decoded_with_at_most_the_batch_size_at_once(
    make_spec, make_plan_on_disk, passes
) -> None:
    plan = make_plan_on_disk(chunk_size=10)
    engine = engine_of(make_spec(chunk_size=10, batch_size=4), plan)
    heard = FakeFlight()
    answered = engine.answer(plan.chunk(0), heard)
    assert max(passes) == 4
    assert (answered.batch_size, answered.smallest_batch_size) == (4, 4)
    assert [answer.id for answer in answered.answers] == [r.id for r in plan.chunk(0)]
    assert sorted(heard.answers, key=lambda a: a.id) == sorted(answered.answers, key=lambda a: a.id)


def test_latency_counts_from_a_free_slot_not_from_the_start_of_the_chunk(
    make_spec, make_plan_on_disk
) -> None:
    plan = make_plan_on_disk(chunk_size=10)
    engine = engine_of(make_spec(chunk_size=10, batch_size=1), plan)
    started = time.perf_counter()
    one_by_one = engine.answer(plan.chunk(0), FakeFlight()).answers
    elapsed_s = time.perf_counter() - started
    latencies = [answer.latency_s for answer in one_by_one]
    assert min(latencies) > 0
    # With one slot the answers do not overlap: none can count the time of another.
    assert sum(latencies) <= elapsed_s


def test_warm_up_is_a_small_part_of_a_chunk_in_its_own_slots(
    make_spec, make_plan_on_disk, passes
) -> None:
    plan = make_plan_on_disk(chunk_size=10)
    engine = engine_of(make_spec(chunk_size=10, batch_size=4, max_new_tokens=200), plan)
    engine.warm_up(plan.chunk(0))
    warm_up = list(passes)
    passes.clear()
    engine.answer(plan.chunk(0), FakeFlight())
    assert max(warm_up) == 4
    assert 2 <= len(warm_up) < 0.5 * len(passes)


def test_another_batch_size_makes_no_other_run(make_spec, make_plan_on_disk) -> None:
    # Each chunk fills three slots, whichever has the peak of the process.
    make_plan_on_disk(chunk_size=5)
    first = finish(make_spec(chunk_size=5, batch_size=3))
    assert not finish(make_spec(chunk_size=5, batch_size=1)).is_new
    assert first.summary.eval_params["batch_size"] == 3
    assert first.summary.eval_params["chunk_size"] == 5
    assert "smallest_batch_size" not in first.summary.eval_params
    assert first.summary.peak_memory.slots == 3
    assert first.summary.out_of_memory is None
    assert "batch_size" not in first.summary.decides


def test_a_run_that_went_on_with_another_batch_size_says_so(make_spec, make_plan_on_disk) -> None:
    make_plan_on_disk()
    spec = make_spec(batch_size=3)
    finish(spec)
    expected = answers_in(spec.parent)
    path = spec.parent / "answers.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4]))
    (spec.parent / "summary.json").unlink()
    summary = finish(make_spec(batch_size=2)).summary
    assert answers_in(spec.parent) == expected
    # Ten requests in chunks of three: the last chunk has one, for which one slot is enough.
    assert batch_sizes_in(spec.parent) == [(3, 3), (3, 3), (2, 2), (1, 1)]
    assert summary.eval_params["batch_size"] == 3
    assert summary.eval_params["smallest_batch_size"] == 2
    assert summary.throughput is not None, "it is one run's throughput all the same"


def test_a_lack_of_memory_is_told_counted_and_changes_no_answer(
    make_spec, make_plan_on_disk, request
) -> None:
    make_plan_on_disk(chunk_size=5)
    spec = make_spec(chunk_size=5, batch_size=5)
    finish(spec)
    expected = answers_in(spec.parent)
    request.getfixturevalue("short_of_memory")
    notes: list[str] = []
    display = silent()
    display.note = notes.append
    summary = finish(spec, again=True, display=display).summary
    assert answers_in(spec.parent) == expected
    assert batch_sizes_in(spec.parent) == [(5, 2), (5, 2)]
    assert notes[0].startswith("earlier answers are kept in ")
    assert notes[1:] == ["out of memory with 5 sequences at once; continuing with 2"] * 2
    assert summary.out_of_memory == 2
    assert summary.eval_params["batch_size"] == 5
    assert summary.eval_params["smallest_batch_size"] == 2


def test_a_request_that_the_decoder_refuses_is_never_scored(make_spec, make_plan_on_disk) -> None:
    plan = make_plan_on_disk()
    engine = engine_of(make_spec(), plan)
    good, bad = plan.requests[0], dataclasses.replace(plan.requests[1], prompt_ids=(999,))
    with pytest.raises(UserError, match=r"item sums:1: token 999 is outside"):
        engine.answer([good, bad], FakeFlight())


@pytest.mark.parametrize(("batch_size", "most"), [(7, 7), ("auto", generate.LIKELIHOOD_INPUTS)])
def test_the_batch_size_of_likelihoods_is_inputs_in_memory(
    make_spec, make_plan_on_disk, monkeypatch, batch_size, most
) -> None:
    plan = make_plan_on_disk("choices")
    engine = engine_of(make_spec("choices", batch_size=batch_size), plan)
    asked = {}

    def score(_: object, requests: list[Any], observe: Observer, **options: Any) -> list[Any]:
        asked.update(options)
        observe(SlotsChosen(5))
        observe(OutOfMemory(64, 32))
        for recording_s in (0.5, 0.25):
            observe(PassRecord((), 1.0, recording_s))
        return [Likelihood(-1.0, True) for _ in requests]

    monkeypatch.setattr(generate, "score", score)
    heard = FakeFlight()
    answered = engine.answer(plan.chunk(0), heard)
    assert asked["batch_size"] == most
    assert (answered.batch_size, answered.smallest_batch_size) == (5, 5)
    assert (answered.out_of_memory, answered.recording_s) == (1, 0.75)
    assert heard.notes == ["out of memory with 64 blocks at once; continuing with 32"]
    assert len(heard.answers) == len(answered.answers) == len(plan.chunk(0))


def chunk(answers: int, batch_size: int, smallest: int, lacks: int = 0) -> Chunk:
    made = tuple(Answer(id=str(n), token_ids=()) for n in range(answers))
    return Chunk(0, 1.0, 0.0, 1, 0.1, batch_size, smallest, lacks, made)


@pytest.mark.parametrize(
    ("chunks", "largest", "smallest", "lacks"),
    [
        ([chunk(200, 32, 32), chunk(200, 32, 32)], 32, None, None),
        ([chunk(200, 32, 32), chunk(5, 5, 5)], 32, None, None),
        ([chunk(200, 32, 32), chunk(5, 2, 2)], 32, 2, None),
        ([chunk(200, 32, 8, 2), chunk(200, 32, 16, 1)], 32, 8, 3),
        ([chunk(200, 20, 20), chunk(200, 32, 32)], 32, 20, None),
        ([chunk(10, 10, 5, 1)], 10, 5, 1),
    ],
)
def test_fewer_at_once_for_a_lack_of_requests_is_no_smaller_batch_size(
    chunks, largest, smallest, lacks
) -> None:
    decoded = Decoded(sessions=[], chunks=chunks, dtype="float32")
    assert decoded.batch_size == largest
    assert decoded.smallest_batch_size == smallest
    assert decoded.out_of_memory == lacks


def test_likelihoods_have_no_smallest_batch_size() -> None:
    answers = tuple(Answer(id=str(n), logprob=-1.0, is_greedy=True) for n in range(9))
    chunks = [Chunk(0, 1.0, 0.0, 1, 0.1, size, size, 0, answers) for size in (7, 3)]
    decoded = Decoded(sessions=[], chunks=chunks, dtype="float32")
    assert (decoded.batch_size, decoded.smallest_batch_size) == (7, None)
