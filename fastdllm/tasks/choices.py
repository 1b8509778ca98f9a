"""Which option a metric takes for the answer of an item.

lm-eval keeps the scores of an item, not what it chose; of equal options it takes the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_eval.api.task import Task

from fastdllm.tasks.item_checks import scores_itself

# What the likelihood of an option is divided by.
_SIZES = {"acc_norm": len, "acc_bytes": lambda option: len(option.encode())}


def chosen_option(task: Task, sample: Mapping[str, Any], metric: str) -> int:
    """Return the number of the option that a metric of lm-eval takes for the answer."""
    scores = [resps[0][0] for resps in sample["resps"]]
    if metric in _SIZES and not scores_itself(task):
        sizes = map(_SIZES[metric], task.doc_to_choice(sample["doc"]))
        scores = [score / size for score, size in zip(scores, sizes, strict=True)]
    return scores.index(max(scores))
