"""Plan, decode, replay gives what lm-eval gives when it asks a model directly."""

from __future__ import annotations

from typing import Any

import pytest

from fastdllm.common.errors import UserError
from fastdllm.runs.answer_records import Answer
from fastdllm.runs.scoring import score_answers
from fastdllm.tasks.lm_eval_models import PromptLM
from fastdllm.tasks.lm_eval_tasks import load_task
from tests.support.direct import assert_scored_as_directly

# What lm-eval's `simple_evaluate` adds to a result by calling pip, git and others in each job.
RECORD_OF_THE_MACHINE = {
    "config",
    "date",
    "git_hash",
    "upper_git_hash",
    "pretty_env_info",
    "lm_eval_version",
    "transformers_version",
}


def answer_to(prompt_ids: tuple[int, ...]) -> str:
    """A model that is right about every second sum."""
    text = "".join(chr(i) for i in prompt_ids if i < 127)
    first = int(text.split("What is ")[-1].split(" ")[0])
    return f"It is {first + first % 2}."


def likelihood(prompt_ids: tuple[int, ...], target_ids: tuple[int, ...]) -> tuple[float, bool]:
    return -float((sum(prompt_ids) * 31 + sum(target_ids) * 7) % 101), False


class Direct(PromptLM):
    """Answers when it is asked, as lm-eval usually works."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self._tokenizer = tokenizer

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def generate_until(self, requests: list[Any]) -> list[str]:
        return [answer_to(self._ids(request.args[0])) for request in requests]

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        return [likelihood(self._ids(r.args[0]), self._ids(r.args[1])) for r in requests]


def engine_answers(plan: Any, tokenizer: Any) -> list[Answer]:
    answers = []
    for index in range(len(plan.header.chunks)):
        for request in plan.chunk(index):
            if request.kind == "generate_until":
                text = answer_to(request.prompt_ids)
                ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
                answers.append(Answer(id=request.id, token_ids=ids))
            else:
                logprob, greedy = likelihood(request.prompt_ids, request.target_ids)
                answers.append(Answer(id=request.id, logprob=logprob, is_greedy=greedy))
    return answers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task_name", "num_fewshot"), [("sums", None), ("choices", None), ("sums", 2)]
)
def test_replay_equals_a_direct_run(
    make_plan_on_disk, tokenizer, task_name: str, num_fewshot: int | None
) -> None:
    plan = make_plan_on_disk(task_name, num_fewshot=num_fewshot)
    scores = score_answers(
        plan,
        engine_answers(plan, tokenizer),
        tokenizer=tokenizer,
        task=load_task(task_name),
        bootstrap_iters=100,
    )
    direct = assert_scored_as_directly(
        scores,
        Direct(tokenizer),
        load_task(task_name),
        num_fewshot=num_fewshot,
        bootstrap_iters=100,
    )
    missing = direct.keys() - scores.results.keys() - {"samples"}
    assert missing <= RECORD_OF_THE_MACHINE, "lm-eval tells something new"
    assert scores.unused_answers == 0
    assert [sample["item"] for sample in scores.samples] == list(range(len(scores.samples)))
    right = sum(sample["correct"] for sample in scores.samples)
    primary = next(metric for metric in scores.metrics if metric.primary)
    assert 0 < right < len(scores.samples)
    assert primary.value == pytest.approx(right / len(scores.samples))
    assert primary.interval_method == "wilson"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("What is 4", "What was 4", "item 4: no answer to this prompt"),
        ('"answer": "4"', '"answer": "5"', "item 4: asks or expects something else than when it"),
    ],
)
def test_changed_item_is_an_error_not_a_wrong_score(
    make_plan_on_disk, tokenizer, project, old: str, new: str, says: str
) -> None:
    plan = make_plan_on_disk()
    answers = engine_answers(plan, tokenizer)
    data = project / "tasks/data/sums.jsonl"
    assert old in data.read_text()
    data.write_text(data.read_text().replace(old, new))
    with pytest.raises(UserError, match=says):
        score_answers(
            plan,
            answers,
            tokenizer=tokenizer,
            task=load_task("sums"),
            bootstrap_iters=0,
        )
