"""The figures against plain loops over a patched network, and the trajectory against `decode`."""

from __future__ import annotations

import pytest
import torch

from fastdllm import DecodingSettings, Policy, Request, decode, generate
from fastdllm.model.fused import fused
from fastdllm.policy import SpanAction
from fastdllm.tools.sensitivity import measurement
from fastdllm.tools.sensitivity.layer_spans import spans_to_measure
from fastdllm.tools.sensitivity.measurement import measure_passes
from fastdllm.tools.sensitivity.probed_policy import ProbedPolicy
from tests.support.slow_trace import slow_trace

MASK, STOP = 255, 254
PASSES = 8


def settings_for(threshold=0.9, **more):
    values = {"mask_id": MASK, "stop_token": STOP, "max_new_tokens": 64}
    return DecodingSettings(threshold=threshold, **values | more)


def prompt_of(length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 250, (length,), generator=generator).tolist()


@pytest.mark.parametrize(
    ("name", "length", "threshold", "size"),
    [("m6", 7, 0.5, 8), ("m6", 33, 0.9, 16), ("m14", 40, 0.6, 8)],
)
def test_changes_and_flags_are_those_of_the_slow_trace(golden_model, name, length, threshold, size):
    model = golden_model(name)
    settings = settings_for(threshold, small_block_size=size)
    spans = spans_to_measure(model.config.num_layers, 4)
    expected, _ = slow_trace(model, prompt_of(length), settings, spans, MASK, PASSES)
    measured = measure_passes(fused(model), [prompt_of(length)], settings, spans)
    judged = flagged = 0
    for slow, log in zip(expected, measured.passes, strict=False):
        place = (slow.block, slow.sub_block, slow.step, slow.masked)
        assert (log.block, log.sub_block, log.step, log.masked) == place
        assert log.input_change == pytest.approx(slow.input_change, rel=2e-3, abs=1e-5)
        assert log.delta_change == pytest.approx(slow.delta_change, rel=2e-3, abs=1e-5)
        pairs = [(a, b) for a, b in zip(slow.changed, log.changed, strict=True) if a is not None]
        assert [a for a, _ in pairs] == [b for _, b in pairs]
        judged += len(pairs)
        flagged += sum(a for a, _ in pairs if a)
    # Both answers occur, and most can be told.
    assert len(expected) == PASSES
    assert judged > 0.5 * PASSES * len(spans)
    assert 0 < flagged < judged


def steps_of(model, prompts, settings, spans, monkeypatch):
    """The steps of a measured decoding."""
    steps = []

    def recorded(*arguments, **more):
        for step in decode(*arguments, **more):
            steps.append(step)
            yield step

    monkeypatch.setattr(measurement, "decode", recorded)
    measured = measure_passes(model, prompts, settings, spans)
    return steps, measured


@pytest.mark.parametrize(("name", "depth"), [("m6", 0), ("m14", 0), ("m6", 2)])
def test_the_trajectory_is_the_plain_one_to_the_last_bit(golden_model, name, depth, monkeypatch):
    model = fused(golden_model(name))
    settings = settings_for(0.7, lookahead_depth=depth, lookahead_threshold=0.4)
    prompts = [prompt_of(length, seed) for seed, length in enumerate((1, 31, 64))]
    spans = spans_to_measure(model.config.num_layers, 3)
    steps, measured = steps_of(model, prompts, settings, spans, monkeypatch)
    policy = Policy(settings, Policy.Parameters(), model.config.num_layers)
    requests = [Request(tuple(prompt)) for prompt in prompts]
    assert steps == list(decode(model, requests, policy, slots=1))
    assert [measured.answers[i] for i in range(3)] == generate(model, prompts, settings, slots=1)
    assert sum(a.passes.sub_block for a in measured.answers.values()) == len(measured.passes)
    # The model itself is as it was: no engine of the measurement is left on it.
    assert all(type(engine).__name__ != "RecordingEngine" for engine in model.idle_engines)
    assert model.make_engine is None


class SameValues(ProbedPolicy):
    """Takes what this very pass computed for what the layers gave before."""

    def _log(self, state, recorded, offsets, predictions, accepted):
        self._store(recorded, offsets)
        return super()._log(state, recorded, offsets, predictions, accepted)


def test_values_of_the_same_pass_change_nothing(golden_model, monkeypatch):
    model = fused(golden_model("m6"))
    monkeypatch.setattr(measurement, "ProbedPolicy", SameValues)
    spans = spans_to_measure(6, 1)
    assert len(spans) == 21
    measured = measure_passes(model, [prompt_of(20)], settings_for(0.9), spans)
    assert len(measured.passes) > 10
    for log in measured.passes:
        assert not any(log.changed)
        assert set(log.input_change) == set(log.delta_change) == {0.0}


class LeavesNoTrace(ProbedPolicy):
    """Looks at the cache before and after its replaced passes."""

    def _log(self, state, recorded, offsets, predictions, accepted):
        before = [layer.clone() for layer in recorded.cache.rows]
        log = super()._log(state, recorded, offsets, predictions, accepted)
        for old, new in zip(before, recorded.cache.rows, strict=True):
            assert torch.equal(old, new)
        return log


def test_replaced_passes_leave_the_cache_as_it_was(golden_model, monkeypatch):
    monkeypatch.setattr(measurement, "ProbedPolicy", LeavesNoTrace)
    measured = measure_passes(fused(golden_model("m6")), [prompt_of(20)], settings_for(), [(1, 3)])
    assert measured.passes


@pytest.mark.parametrize("depth", [0, 2])
def test_what_lies_ahead_of_a_sub_block_pass_is_not_replaced(golden_model, depth, monkeypatch):
    """Same values in the sub-block and the kept proposals ahead of it: the plain predictions."""
    seen = []

    class Compared(SameValues):
        def _log(self, state, recorded, offsets, predictions, accepted):
            inner = self.inner.accept

            def accept(replaced, states):
                seen.append(predictions.tokens.shape[1])
                torch.testing.assert_close(
                    replaced.confidence, predictions.confidence.expand(2, -1), rtol=0, atol=1e-3
                )
                return inner(replaced, states)

            monkeypatch.setattr(self.inner, "accept", accept)
            log = super()._log(state, recorded, offsets, predictions, accepted)
            monkeypatch.setattr(self.inner, "accept", inner)
            return log

    monkeypatch.setattr(measurement, "ProbedPolicy", Compared)
    settings = settings_for(0.7, lookahead_depth=depth, lookahead_threshold=0.4)
    measure_passes(fused(golden_model("m6")), [prompt_of(20)], settings, [(1, 3), (0, 6)])
    assert max(seen) > 8 if depth else set(seen) == {8}


class OneReuse(Policy):
    """Adds the stored delta of one span in one sub-block pass, and is plain before it."""

    at: tuple[int, int]

    def span_actions(self, span, states, signals):
        reuses = [(s.block, s.block_step) == self.at for s in states]
        return [SpanAction.ADD_DELTA if reuse else SpanAction.COMPUTE for reuse in reuses]


def test_a_replaced_pass_commits_what_a_policy_that_reuses_commits(golden_model):
    model = fused(golden_model("m6"))
    settings = settings_for(0.6)
    prompt = prompt_of(20)
    spans = spans_to_measure(6, 3)
    measured = measure_passes(model, [prompt], settings, spans)
    plain = _denoising(model, prompt, Policy(settings, Policy.Parameters(), 6))
    found = set()
    for log in measured.passes[:4]:
        at = (log.block, log.step)
        for span, changed in zip(spans, log.changed, strict=True):
            policy = OneReuse(settings, Policy.Parameters(), 6)
            policy.layer_spans, policy.at = (span,), at
            committed = _denoising(model, prompt, policy)[at]
            assert (committed != plain[at]) == changed, (at, span)
            found.add(changed)
    assert found == {True, False}


def _denoising(model, prompt, policy):
    """What each denoising pass committed, by block and step in the block."""
    steps = decode(model, [Request(tuple(prompt))], policy)
    denoising = [step for step in steps if step.sub_block is not None]
    first = {step.block: n for n, step in reversed(list(enumerate(denoising)))}
    return {
        (step.block, n - first[step.block]): (step.positions, step.tokens)
        for n, step in enumerate(denoising)
    }
