"""Plan, decode and score give, for the published tasks, what lm-eval gives by asking directly."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastdllm.decoding.sequence import PassCounts
from fastdllm.model.tokenizer import load_tokenizer
from fastdllm.runs.answer_records import Answer
from fastdllm.runs.scoring import score_answers
from fastdllm.tasks.lm_eval_models import PromptLM
from fastdllm.tasks.lm_eval_setup import lm_eval_environment
from fastdllm.tasks.lm_eval_tasks import load_task
from fastdllm.tasks.planning import PlanOptions, make_plan
from fastdllm.tasks.task_source import TaskSource
from tests.support.direct import assert_scored_as_directly
from tests.support.shipped_tasks import DATA, MODEL, ROOT, needs_data
from tests.tasks_shipped import test_gpqa, test_minerva_math, test_mmlu

TEXTS = (
    "",
    "ok",
    "My answer is yes.",
    'I AM "HERE". You are *there*!\n* one\n\nP.S. <<Two>>',
    "#### 4, or $\\boxed{4}$.",
)
# Right answers, by what only their prompts have.
RIGHT = {
    "ducks lay 16 eggs": "First \\boxed{9}, then \\boxed{\\$18}. She sells them at $2.",
    "Expand $(x+1)^2$": "It is $\\boxed{(x+1)^2}$, or $x^2$ and so on.",
    "def truncate_number(": "```python\ndef truncate_number(number):\n    return number % 1\n```",
    "assert sort_matrix(": "def sort_matrix(rows):\n    return sorted(rows, key=sum)\n",
    "assert count_common(": "def count_common(words):\n    return []\n",
}


def text_for(prompt: str) -> str:
    """Return an answer that anybody gives to a prompt: one of some texts, or the prompt itself."""
    for part, answer in RIGHT.items():
        if part in prompt:
            return answer
    number = hashlib.sha256(prompt.encode()).digest()[0]
    # No answer has the special tokens of a chat.
    return (*TEXTS, prompt.replace("<|", "<"))[number % (len(TEXTS) + 1)]


def likelihood_of(prompt: str, option: str) -> tuple[float, bool]:
    number = hashlib.sha256(f"{prompt}{option}".encode()).digest()[0]
    return -float(number), number < 128


class Direct(PromptLM):
    """Answers when it is asked, as lm-eval usually works."""

    def generate_until(self, requests: list[Any]) -> list[str]:
        return [text_for(request.args[0]) for request in requests]

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        return [likelihood_of(*request.args) for request in requests]


# Name, the folder of its data, and the most items of each subtask.
TASKS = [
    *(
        pytest.param(name, lambda _, name=name: DATA / name, 40, marks=needs_data(name))
        for name in ("ifeval", "humaneval", "mbpp")
    ),
    pytest.param("gsm8k", lambda _: DATA / "gsm8k", 40, marks=needs_data("gsm8k")),
    ("minerva_math", test_minerva_math.write_rows, 4),
    pytest.param("mmlu", lambda to: test_mmlu.write_rows(to, 3), 2, marks=needs_data("mmlu")),
    ("gpqa", lambda to: test_gpqa.write_rows(to, test_gpqa.rows_of("all")), 60),
]


@pytest.mark.slow  # some answers are judged in other processes
@pytest.mark.parametrize(("name", "data", "limit"), TASKS)
def test_a_run_is_scored_as_a_direct_run(
    name: str,
    data: Callable[[Path], Path],
    limit: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    # Which calls pip.
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda _: None)
    task = TaskSource(Path(f"tasks/{name}.yaml"), data=str(data(tmp_path)))
    tokenizer = load_tokenizer(str(MODEL))
    options = PlanOptions(
        task=task,
        limit=limit,
        chunk_size=7,
        num_fewshot=None,
        apply_chat_template=True,
        max_positions=10**6,
        vocab_size=10**6,
        allows_code=True,
    )
    with lm_eval_environment(offline=True, private_cache=True):
        plan = make_plan(tokenizer, options)
        answers = []
        for request in reversed(plan.requests):  # chunks of shards end in any order
            if request.kind == "loglikelihood":
                logprob, is_greedy = likelihood_of(*request.args)
                answers.append(Answer(id=request.id, logprob=logprob, is_greedy=is_greedy))
            else:
                text = text_for(request.args[0])
                ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
                answers.append(Answer(id=request.id, token_ids=ids, passes=PassCounts()))
        scores = score_answers(
            plan,
            answers,
            tokenizer=tokenizer,
            task=load_task(task),
            bootstrap_iters=10,
            allows_code=True,
        )
        assert_scored_as_directly(
            scores,
            Direct(tokenizer),
            load_task(task),
            limit=limit,
            bootstrap_iters=10,
            confirm_run_unsafe_code=True,
        )
    assert len(scores.samples) == limit * {"mmlu": 57, "minerva_math": 7}.get(name, 1)
    assert 0 < sum(sample["correct"] for sample in scores.samples) < len(scores.samples)
