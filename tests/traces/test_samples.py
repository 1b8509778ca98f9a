"""An answer of a run is decoded again for its steps, which are those of the run or not shown."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, replace

import pytest

from fastdllm import UserError, decode, load_model
from fastdllm.model.config import EMBEDDED_MODEL
from fastdllm.model.tokenizer import conversation_text, load_tokenizer
from fastdllm.policy import default_policy
from fastdllm.runs.commits import Commits
from fastdllm.traces.recording import TraceRecorder
from fastdllm.traces.samples import read_sample
from tests.support.run_project import REPOSITORY

RUN = REPOSITORY / "artifacts/00_baseline/word_problems/k3_last/summary.json"
QUESTION = "Tom has 52 lamps. He finds 27 lamps. How many lamps does Tom have now?"


@pytest.fixture(scope="module")
def recorder():
    path = str(EMBEDDED_MODEL)
    return TraceRecorder(load_model(path, device="cpu"), load_tokenizer(path), path)


def traced(recorder, sample):
    policy = default_policy(sample.settings, recorder.model.config.num_layers)
    request = sample.request(recorder.tokenizer, runners_up=1)
    recording, commits, steps = recorder.start(request, policy), Commits(), []
    for step in decode(recorder.model, [request], policy):
        recording.add(step, 0.0)
        commits.add(step)
        steps.append(step)
    answer = steps[-1].finished
    course = commits.close(0, len(request.prompt_ids), len(answer.token_ids))
    return recording.trace(), answer, course


@pytest.fixture
def run(tmp_path, recorder):
    """A run's samples.jsonl and summary.json: an answer as runs store it, and one of options."""
    shutil.copy(RUN, tmp_path / "summary.json")
    prompt = conversation_text(recorder.tokenizer, [{"role": "user", "content": QUESTION}])
    line = {"prompt": prompt, "token_ids": [0] * 90, "committed_at": [], "passes": {}}
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps(line | {"finish_reason": "length", "correct": True}))
    _, answer, course = traced(recorder, read_sample(path, 1))
    assert answer.finish_reason == "stop" and answer.passes.reused > 0
    line |= {"token_ids": answer.token_ids, "committed_at": course.committed_at}
    line |= {"passes": asdict(answer.passes), "finish_reason": "stop"}
    path.write_text("\n".join(map(json.dumps, [line, {"prompt": "?", "answer": "B"}, [], {}])))
    return path


def test_an_answer_of_a_run_has_its_steps_again(run, recorder):
    sample = read_sample(run, 1)
    assert (sample.settings.reuse_k, sample.settings.layer_subset) == (3, "last")
    sample.check(traced(recorder, sample)[0])
    for n in (1, 5):
        cut = {"token_ids": sample.token_ids[:n], "committed_at": sample.committed_at[:n]}
        shorter = replace(sample, **cut, finish_reason="stop_when")
        trace = traced(recorder, shorter)[0]
        assert (trace.answer.finish_reason, list(trace.answer.ids)) == (
            "stop_when",
            sample.token_ids[:n],
        )


@pytest.mark.parametrize("name", ["token_ids", "committed_at", "passes"])
def test_steps_that_are_not_those_of_the_run_are_not_shown(run, recorder, name):
    sample = read_sample(run, 1)
    trace = traced(recorder, sample)[0]
    value = getattr(sample, name)
    other = {**value, "reused": 99} if name == "passes" else [*value[:-1], value[-1] + 1]
    with pytest.raises(UserError, match=r"line 1: decoded again, its steps differ"):
        replace(sample, **{name: other}).check(trace)


@pytest.mark.parametrize(
    ("number", "problem"),
    [
        (2, "line 2: no generated answer"),
        (3, "line 3: no generated answer"),
        (5, "has no line 5; the lines are the items, from 1"),
        (0, "has no line 0"),
    ],
)
def test_a_line_without_an_answer_is_named(run, number, problem):
    with pytest.raises(UserError, match=re.escape(problem)):
        read_sample(run, number)


def test_a_run_without_its_summary_is_named(run):
    run.with_name("summary.json").unlink()
    with pytest.raises(UserError, match=r"cannot read .*summary\.json"):
        read_sample(run, 1)
