"""Which option a metric takes for the answer of an item, and whether ties left that to their order.

lm-eval keeps the scores of an item, not what it chose; of equal options it takes the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_eval.api.task import Task

from fastdllm.tasks.checks.inspection import scores_itself
from fastdllm.tasks.metrics import right_or_wrong

# What the likelihood of an option is divided by.
_SIZES = {"acc_norm": len, "acc_bytes": lambda option: len(option.encode())}
# By how much an option is put before its equals: more than rounding, less than real differences.
_NUDGE = 1e-9


def chosen_option(task: Task, sample: Mapping[str, Any], metric: str) -> int:
    """Return the number of the option that a metric of lm-eval takes for the answer."""
    scores = [resps[0][0] for resps in sample["resps"]]
    if metric in _SIZES and not scores_itself(task):
        sizes = map(_SIZES[metric], task.doc_to_choice(sample["doc"]))
        scores = [score / size for score, size in zip(scores, sizes, strict=True)]
    return scores.index(max(scores))


def is_tied(task: Task, sample: Mapping[str, Any], metric: str) -> bool:
    """Whether an item is right or wrong by the order of its options, of which some are equal.

    Scored again with each of the equal ones a little likelier. Options of the same text are one.
    """
    if task.OUTPUT_TYPE != "multiple_choice":
        return False
    asked, results = sample["arguments"], sample["filtered_resps"]
    logprobs = [logprob for logprob, _ in results]
    for option in {
        args for args, logprob in zip(asked, logprobs, strict=True) if logprobs.count(logprob) > 1
    }:
        nudged = [
            (logprob + _NUDGE * (args == option), is_greedy)
            for args, (logprob, is_greedy) in zip(asked, results, strict=True)
        ]
        score = task.process_results(sample["doc"], nudged).get(metric)
        if right_or_wrong([score]) != right_or_wrong([sample.get(metric)]):
            return True
    return False
