"""What lm-eval gives where it asks a model itself, and not from answers that a run has kept."""

from __future__ import annotations

from typing import Any

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from fastdllm.runs.scoring import Scores, plain
from fastdllm.tasks.lm_eval_models import PromptLM
from fastdllm.tasks.lm_eval_tasks import TASK_SEED, LoadedTask


def assert_scored_as_directly(
    scores: Scores, lm: PromptLM, task: LoadedTask, **options: Any
) -> dict[str, Any]:
    """Compare results.json with what lm-eval gives for the same answers, and return that.

    task: loaded anew, as it is changed; options: of lm-eval's `simple_evaluate`.
    """
    direct = simple_evaluate(
        lm,
        tasks=[task.root],
        task_manager=TaskManager(include_defaults=False),
        apply_chat_template=True,
        fewshot_as_multiturn=True,
        fewshot_random_seed=TASK_SEED,
        **options,
    )
    assert direct is not None
    for key in scores.results:
        assert scores.results[key] == plain(direct[key]), key
    return direct
