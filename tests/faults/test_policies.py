"""Policies that depend on batch or chance, and settings that are not those of a result or model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fastdllm.cli import main
from fastdllm.common.errors import UserError
from fastdllm.runs import chunk_engine
from fastdllm.runs.evaluation import Evaluation
from fastdllm.runs.spec import read_spec
from fastdllm.workflow.project.digests import FileDigests, check_sources
from tests.support.run_project import silent, write_lines

POLICY = Path("experiments/trial/generation_functions.py")
HEAD = """
import random
import torch
from fastdllm.policy import Policy, PassKind, SpanAction


class Odd(Policy):
    calls = 0
"""
SPAN = "    layer_spans = ((1, 3),)\n"
DRAWS = """
    def accept(self, predictions, states):
        return self.accepted_above(random.random(), predictions)
"""
COUNTS = """
    def accept(self, predictions, states):
        self.calls += 1
        return self.accepted_above(0.9 if self.calls % 2 else 0.0, predictions)
"""
COMPARES = """
    def accept(self, predictions, states):
        highest = predictions.confidence.amax().item()
        return self.accepted_above(min(0.999 * highest, 1.0), predictions) | (
            predictions.masked & (len(states) == 1)
        )
"""
COUNTS_PASSES = """
    def next_pass(self, state):
        self.calls += 1
        return PassKind.FULL_BLOCK if self.calls % 2 else super().next_pass(state)
"""
COUNTS_WINDOWS = """
    def window(self, state, kind):
        self.calls += 1
        start, stop = super().window(state, kind)
        return start, stop + (self.calls % 2 and kind is PassKind.FULL_BLOCK and stop < 32)
"""
COMPARES_CHANGES = (
    SPAN
    + """
    def span_actions(self, span, states, signals):
        changes = signals.input_change()
        calm = [change < max(changes) for change in changes]
        return [SpanAction.ADD_DELTA if c else SpanAction.COMPUTE for c in calm]
"""
)
DERIVED = """
    def accept(self, predictions, states):
        predictions.confidence.mul_(0.5)
        return self.accepted_above(0.3, predictions)
"""
REMEMBERS = """
    def __init__(self, settings, parameters, num_layers):
        super().__init__(settings, parameters, num_layers)
        self.begun = {}

    def next_pass(self, state):
        begun = self.begun.setdefault(state.request, state.BEGUN)
        is_later = state.block_step == 1 and state.BEGUN != begun
        return PassKind.FULL_BLOCK if is_later else super().next_pass(state)
"""
MEASURES = (
    SPAN
    + """
    def span_actions(self, span, states, signals):
        calm = [change < 0.1 for change in signals.input_change()]
        return [SpanAction.ADD_DELTA if c else SpanAction.COMPUTE for c in calm]
"""
)
REMEMBERS_IN_FILE = """
    def window(self, state, kind):
        SEEN.append(state.block)
        return super().window(state, kind)


SEEN = []
"""
DRAWS_LATE = """
    def next_pass(self, state):
        state.request == 2 and random.random()
        return super().next_pass(state)
"""
DRAWS_ONCE = """
    level = random.random()
"""
LATE = """
    def accept(self, predictions, states):
        self.calls += 1
        return self.accepted_above(0.0 if self.calls > 60 else 2.0, predictions)
"""
NO_ACTIONS = (
    SPAN
    + """
    def span_actions(self, span, states, signals):
        return None
"""
)
NOTHING_ALONE = """
    def accept(self, predictions, states):
        return predictions.masked if len(states) > 1 else None
"""
OTHER_SETTINGS = """
    def __init__(self, settings, parameters, num_layers):
        super().__init__(settings.model_copy(update={"threshold": 0.1}), parameters, num_layers)
"""


@pytest.fixture
def run(make_spec: Callable[..., Path], make_plan_on_disk: Callable[..., Any]) -> Callable:
    """Decode the run of a policy."""

    def evaluate(policy: str, **options: int) -> Any:
        make_plan_on_disk()
        POLICY.write_text(HEAD + policy)
        spec = make_spec(**options)
        check = partial(check_sources, digests=FileDigests())
        return Evaluation(read_spec(spec), spec.parent, silent(), check).evaluate().summary

    return evaluate


@pytest.mark.parametrize(
    ("policy", "method"),
    [
        (DRAWS, "accept"),
        (COUNTS, "accept"),
        (COMPARES, "accept"),
        (COUNTS_PASSES, "next_pass"),
        (COUNTS_WINDOWS, "window"),
        (COMPARES_CHANGES, "span_actions"),
        (REMEMBERS.replace("BEGUN", "masked"), "next_pass"),
    ],
    ids=[
        *("draws", "counts", "compares", "counts-passes", "counts-windows", "compares-changes"),
        "remembers",
    ],
)
def test_a_policy_that_decides_otherwise_when_asked_again_is_refused(
    run: Callable, policy: str, method: str
) -> None:
    with pytest.raises(UserError, match=f"policy Odd: {method} decided otherwise when asked again"):
        run(policy)
    assert not list(Path("results").rglob("summary.json"))


@pytest.mark.parametrize(
    ("policy", "changed"),
    [
        (REMEMBERS_IN_FILE, "changed SEEN while it decided"),
        (DRAWS_LATE, "changed the generator of `random` while it decided"),
        (DRAWS_ONCE, "changed the generator of `random` when it was imported"),
    ],
    ids=["remembers", "draws-late", "draws-once"],
)
def test_a_run_ends_with_a_side_effect_of_its_policy(
    run: Callable, policy: str, changed: str
) -> None:
    with pytest.raises(UserError, match=changed):
        run(policy, batch_size=1)  # so that the warm-up sees the first request only
    assert not list(Path("results").rglob("summary.json"))


def test_a_run_ends_with_a_decision_that_depends_on_others_long_after_its_warm_up(
    run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk_engine, "ASKED_AGAIN", 5)
    with pytest.raises(UserError, match="policy Odd: accept decided otherwise when asked again"):
        run(LATE, batch_size=1)
    assert not list(Path("results").rglob("summary.json"))


@pytest.mark.parametrize(
    ("policy", "refused"),
    [
        (NO_ACTIONS, "span_actions gave None; it should be a list"),
        (NOTHING_ALONE, "accept decided otherwise when asked again"),
    ],
    ids=["no-actions", "nothing-alone"],
)
def test_a_policy_that_answers_with_nothing_is_refused(
    run: Callable, policy: str, refused: str
) -> None:
    with pytest.raises(UserError, match=f"policy Odd: {refused}"):
        run(policy)


@pytest.mark.parametrize("policy", [DERIVED, MEASURES], ids=["writes-to-its-input", "measures"])
def test_a_policy_that_decides_by_what_it_sees_is_decoded(run: Callable, policy: str) -> None:
    assert run(policy).items.n == 10


def test_what_a_policy_remembers_does_not_outlive_a_chunk(project: Path, run: Callable) -> None:
    questions = [{"question": "What is it? " * (1 + i), "answer": "1"} for i in range(10)]
    write_lines(project / "tasks/data/sums.jsonl", questions)
    policy = REMEMBERS.replace("BEGUN", "block")
    whole, answers = run(policy), Path("results/trial/sums/plain/answers.jsonl")
    header, session, first, *_ = answers.read_text().splitlines(keepends=True)
    answers.write_text(header + session + first)
    answers.with_name("summary.json").unlink()
    resumed = run(policy)
    assert resumed.resumed and resumed.passes == whole.passes


def test_a_policy_that_changes_its_settings_is_refused(run: Callable) -> None:
    with pytest.raises(UserError, match="Odd decodes with other settings than those that its res"):
        run(OTHER_SETTINGS)
    assert not list(Path("results").rglob("summary.json"))


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("key", ["mask_id", "stop_token"])
def test_a_token_that_the_model_lacks_is_refused_before_any_job(
    capsys: pytest.CaptureFixture[str], key: str
) -> None:
    experiment = POLICY.with_name("experiment.yaml")
    experiment.write_text(experiment.read_text() + f"decoding: {{{key}: 256}}\n")
    assert main(["status"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"config plain: {key} 256 is outside the model's vocabulary of 256")
