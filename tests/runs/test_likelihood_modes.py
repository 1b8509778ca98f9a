"""What the two modes of log-likelihoods make of letters, and of options of several tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastdllm.decoding.likelihood import LikelihoodRequest, modes_of, score
from fastdllm.tasks.pairs import PairEncoder
from fastdllm.workflow.project.config_files import TaskOptions
from tests.runs.test_evaluate import finish
from tests.support.likelihoods import steady_network
from tests.support.real_size_tokenizer import IM_END, MASK, VOCABULARY, real_size_tokenizer
from tests.support.small_project import edit

QUESTION = [{"role": "user", "content": "Which one is it?\nChoices:\n(A) one\n(B) two\nAnswer:"}]


def asked(options: list[str]) -> list[LikelihoodRequest]:
    """The options of one question in a chat, as tokens of the published size."""
    tokenizer = real_size_tokenizer()
    text = tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    pairs = (PairEncoder(tokenizer)(text, option) for option in options)
    return [LikelihoodRequest(*pair) for pair in pairs]


@pytest.fixture(scope="module")
def model(golden_model: Callable[[str], Any]) -> Any:
    """A random network of the published vocabulary, whose scores rounding does not change."""
    config = replace(golden_model("m6").config, vocab_size=VOCABULARY, mask_id=MASK)
    return steady_network(replace(config, stop_tokens=(IM_END,)))


def scores(model: Any, requests: list[LikelihoodRequest], mode: str) -> list[float]:
    found = score(model, requests, mode=modes_of(requests, mode), mask_id=MASK, stop_token=IM_END)
    return [likelihood.logprob for likelihood in found]


def test_letters_are_scored_as_published_in_both_modes(model: Any) -> None:
    requests = asked(["A", "B", "C", "D"])
    assert {len(request.target_ids) for request in requests} == {1}
    assert modes_of(requests, "chain") == ["published"] * 4
    assert scores(model, requests, "chain") == scores(model, requests, "published")


def test_letters_in_brackets_differ_between_the_modes(model: Any) -> None:
    """The published tokenizer takes "(A" for one token, and ")" for another one."""
    requests = asked(["(A)", "(B)", "(C)", "(D)"])
    assert {len(request.target_ids) for request in requests} == {2}
    assert len({request.target_ids[0] for request in requests}) == 4
    assert len({request.target_ids[1] for request in requests}) == 1
    whole, first = scores(model, requests, "chain"), scores(model, requests, "published")
    assert all(abs(one - other) > 0.01 for one, other in zip(whole, first, strict=True))


def test_only_a_choice_between_single_tokens_is_published() -> None:
    def mode(*targets: tuple[int, ...]) -> list[str]:
        return modes_of([LikelihoodRequest((7, 8), target) for target in targets], "chain")

    assert mode((1,), (2,)) == ["published"] * 2
    assert mode((1,), (2, 3)) == ["chain"] * 2
    assert mode((1,)) == ["chain"], "the one target of a text that goes on"
    others = [LikelihoodRequest((7, 9), (2, 3)), LikelihoodRequest((7, 9), (2, 4))]
    letters = [LikelihoodRequest((7, 8), (n,)) for n in (1, 2)]
    assert modes_of([*letters, *others], "chain") == [*["published"] * 2, *["chain"] * 2]
    assert modes_of([*letters, *others], "published") == ["published"] * 4


@pytest.mark.parametrize("options", ['["A", "B", "C"]', '["no", "yes", "none"]'])
def test_a_run_scores_whole_options_by_default(
    make_spec: Callable[..., Path], make_plan_on_disk: Callable[..., Any], options: str
) -> None:
    edit("tasks/choices.yaml", '["A", "B", "C"]', options)
    make_plan_on_disk("choices")
    found = {}
    for mode in ("published", TaskOptions().likelihood_mode):
        spec = make_spec("choices", likelihood_mode=mode)
        finish(spec)
        lines = spec.with_name("samples.jsonl").read_text().splitlines()
        found[mode] = [[o["logprob"] for o in json.loads(line)["options"]] for line in lines]
    assert (found["published"] == found["chain"]) == ("A" in options)
