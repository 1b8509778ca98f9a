"""Look-ahead on the embedded model: what it saves, and the collapse without its refresh rule."""

from __future__ import annotations

import json
import re
from functools import cache

import pytest

from fastdllm import DecodingSettings, Request, generate, load_model
from fastdllm.model.config import EMBEDDED_MODEL
from fastdllm.model.tokenizer import load_tokenizer
from fastdllm.policy import PassKind, Policy
from fastdllm.tools.bench.workload import QUESTIONS, question_prompts

ITEMS = 60


class PublishedRefresh(Policy):
    """Look-ahead with the published rule: a full-block pass only where the first is masked."""

    def next_pass(self, state):
        first = state.sub_block * self.settings.small_block_size
        if not state.has_block_cache or state.masked[first]:
            return PassKind.FULL_BLOCK
        return PassKind.SUB_BLOCK


@cache
def tiny():
    return load_model(EMBEDDED_MODEL, device="cpu")


def solved(policy_class: type[Policy] = Policy, **values) -> tuple[int, int]:
    """How many of the first word problems are answered rightly, and in how many passes."""
    chosen = DecodingSettings(max_new_tokens=96, **values)
    policy = policy_class(chosen, Policy.Parameters(), tiny().config.num_layers)
    prompts = question_prompts(str(EMBEDDED_MODEL), None, ITEMS)
    answers = generate(tiny(), [Request(prompt) for prompt in prompts], chosen, policy)
    tokenizer = load_tokenizer(str(EMBEDDED_MODEL), None)
    right = 0
    for answer, line in zip(answers, QUESTIONS.read_text().splitlines(), strict=False):
        numbers = re.findall(r"#### (-?\d+)", tokenizer.decode(answer.token_ids))
        right += numbers[-1:] == [str(json.loads(line)["result"])]
    return right, sum(answer.passes.forwards for answer in answers)


@pytest.mark.parametrize("use_block_cache", [True, False])
def test_lookahead_saves_passes_and_loses_little(use_block_cache):
    right, passes = solved(use_block_cache=use_block_cache)
    ahead, fewer = solved(use_block_cache=use_block_cache, lookahead_depth=3)
    assert right >= 0.9 * ITEMS
    assert ahead >= right - 2
    assert fewer < 0.9 * passes


def test_without_a_refresh_on_entering_a_sub_block_accuracy_collapses():
    ahead, _ = solved(lookahead_depth=3)
    collapsed, _ = solved(PublishedRefresh, lookahead_depth=3)
    assert collapsed < 0.6 * ahead
