"""Plan, decode, replay gives what lm-eval gives when it asks a model directly."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from fastdllm.common.errors import UserError
from fastdllm.runs.answer_records import Answer
from fastdllm.runs.scoring import Scores, plain, score_answers
from fastdllm.tasks.lm_eval_models import PromptLM
from fastdllm.tasks.lm_eval_tasks import TASK_SEED, load_task
from tests.support.run_project import REPOSITORY, write_lines

# From the tokens of a prompt to the text of its answer.
Answerer = Callable[[tuple[int, ...]], str]

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

    def __init__(self, tokenizer: Any, answer: Answerer) -> None:
        super().__init__(tokenizer)
        self._tokenizer, self._answer = tokenizer, answer

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def generate_until(self, requests: list[Any]) -> list[str]:
        return [self._answer(self._ids(request.args[0])) for request in requests]

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        return [likelihood(self._ids(r.args[0]), self._ids(r.args[1])) for r in requests]


def engine_answers(plan: Any, tokenizer: Any, answer: Answerer = answer_to) -> list[Answer]:
    answers = []
    for index in range(len(plan.header.chunks)):
        for request in plan.chunk(index):
            if request.kind == "generate_until":
                text = answer(request.prompt_ids)
                ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
                answers.append(Answer(id=request.id, token_ids=ids))
            else:
                logprob, greedy = likelihood(request.prompt_ids, request.target_ids)
                answers.append(Answer(id=request.id, logprob=logprob, is_greedy=greedy))
    return answers


def compared_scores(
    plan: Any, tokenizer: Any, answer: Answerer = answer_to, num_fewshot: int | None = None
) -> Scores:
    """Return the scores of a plan, which are those of a direct run."""
    task_name = plan.header.task
    scores = score_answers(
        plan,
        engine_answers(plan, tokenizer, answer),
        tokenizer=tokenizer,
        task=load_task(task_name),
        bootstrap_iters=100,
    )
    direct = simple_evaluate(
        Direct(tokenizer, answer),
        tasks=[load_task(task_name).root],
        task_manager=TaskManager(include_defaults=False),
        num_fewshot=num_fewshot,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
        bootstrap_iters=100,
        fewshot_random_seed=TASK_SEED,
    )
    assert direct is not None
    missing = direct.keys() - scores.results.keys() - {"samples"}
    assert missing <= RECORD_OF_THE_MACHINE, "lm-eval tells something new"
    for key in scores.results:
        assert scores.results[key] == plain(direct[key]), key
    assert scores.unused_answers == 0
    return scores


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task_name", "num_fewshot"), [("sums", None), ("choices", None), ("sums", 2)]
)
def test_replay_equals_a_direct_run(
    make_plan_on_disk, tokenizer, task_name: str, num_fewshot: int | None
) -> None:
    plan = make_plan_on_disk(task_name, num_fewshot=num_fewshot)
    scores = compared_scores(plan, tokenizer, num_fewshot=num_fewshot)
    assert [sample["item"] for sample in scores.samples] == list(range(len(scores.samples)))
    right = sum(sample["correct"] for sample in scores.samples)
    primary = next(metric for metric in scores.metrics if metric.primary)
    assert 0 < right < len(scores.samples)
    assert primary.value == pytest.approx(right / len(scores.samples))
    assert primary.interval_method == "wilson"


def boxed_answer(prompt_ids: tuple[int, ...]) -> str:
    """A model that is right about some questions, in several forms, and about others not."""
    length = len(prompt_ids)
    form = ("\\boxed{%d}", "$$\\boxed{%d.00}$$.", "\\boxed{7}, no: \\boxed{x = %d}", "It is %d.")
    return form[length % 4] % (length % 3)


@pytest.mark.slow
@pytest.mark.parametrize("task_name", ["gsm8k", "minerva_math"])
def test_replay_equals_a_direct_run_of_a_task_that_ships(
    make_plan_on_disk, tokenizer, project, task_name: str
) -> None:
    no_data = shutil.ignore_patterns("data", "__*")
    shutil.copytree(REPOSITORY / "tasks", project / "tasks", ignore=no_data, dirs_exist_ok=True)
    data = project / "tasks/data"
    rows = [
        {"question": "?" * i, "answer": f"#### {i % 3}"}
        | {"problem": "?" * i, "solution": f"\\boxed{{{i % 3}}}"}
        for i in range(1, 40)
    ]
    subjects = [file.read_text() for file in (project / "tasks/minerva_math").glob("*_*.yaml")]
    names = re.findall(r"test: (test/\w+\.jsonl)", "\n".join(subjects))
    for name in ("gsm8k/test.jsonl", *(f"minerva_math/{name}" for name in names)):
        write_lines(data / name, rows)
    plan = make_plan_on_disk(task_name, max_positions=10**5)
    scores = compared_scores(plan, tokenizer, boxed_answer)
    values = {f"{m.metric},{m.filter}": m.value for m in scores.metrics}
    assert len(scores.samples) == 39 * (7 if task_name == "minerva_math" else 1)
    assert {m.stderr is not None for m in scores.metrics} == {True}
    assert all(0 < value < 1 for name, value in values.items() if "undecided" not in name)
    assert (scores.group_results is not None) == (task_name == "minerva_math")


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
