"""Examples of few-shot prompts that are wrong, or give away the answer of the item asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.task import ConfigurableTask, Task

from fastdllm.common.errors import UserError
from fastdllm.tasks.item_checks import check_answers, check_values, where_is


def check_examples(task: Task) -> None:
    """Refuse examples of few-shot prompts as items, and those that hold the item that is asked.

    Raises:
        UserError: naming the example, or why there are too few.
    """
    n = task.config.num_fewshot
    if isinstance(n, bool) or not isinstance(n, int | None) or (n or 0) < 0:
        raise UserError(
            f"task {task.task_name!r}: num_fewshot {n!r} is not allowed; it should be a whole "
            "number"
        )
    if not n or not isinstance(task, ConfigurableTask):
        return
    config, of_examples = task.config, task.fewshot_cfg
    items = {repr(doc) for doc in task.eval_docs}
    examples = list(task.fewshot_docs())
    printed = {repr(doc) for doc in examples}
    # lm-eval leaves out the item itself, but only where both splits go by these names, or by none.
    leaves_out = of_examples.split == config.test_split
    if not leaves_out and items <= printed:
        split = config.test_split or config.validation_split
        raise UserError(
            f"task {task.task_name!r}: the examples in its prompts come from the items themselves, "
            "which would find their own answers there; draw them from another split, or give "
            f"test_split: {split} and fewshot_split: {split}, so that each is left out of its own"
        )
    # Drawn at random, there is one more in case that it is the item.
    takes_one_more = leaves_out and (of_examples.sampler != "first_n" or bool(items & printed))
    if n > len(examples) - takes_one_more:
        raise UserError(
            f"task {task.task_name!r}: num_fewshot {n}: there are only {len(examples)} examples"
            + (", one of which may be the item itself" if takes_one_more else "")
        )
    ways = ("doc_to_text", "doc_to_target", "doc_to_choice")
    if all(getattr(of_examples, way) == getattr(config, way) for way in ways):
        for index, doc in enumerate(examples):
            check_values(task, doc, where_is(task, index, "example"))
        check_answers(task, examples, "example")


def check_own_examples(task: Task, samples: Sequence[Mapping[str, Any]]) -> None:
    """Refuse an item that is an example in its own prompt, from a split that shares items.

    samples: of the task, as lm-eval returns them.

    Raises:
        UserError: naming the item.
    """
    if not task.config.num_fewshot or not isinstance(task, ConfigurableTask):
        return
    examples = {repr(doc) for doc in task.fewshot_docs()}
    for sample in samples:
        doc, prompts = sample["doc"], [arguments[0] for arguments in sample["arguments"]]
        if repr(doc) not in examples:
            continue
        text = task.doc_to_text(doc)
        text = str(task.doc_to_choice(doc)[text] if task.multiple_input else text).strip()
        if any(prompt.count(text) > 1 for prompt in prompts):
            raise UserError(
                f"{where_is(task, sample['doc_id'])}: is also an example in its own prompt, with "
                "its answer; take the items out of the split that the examples are drawn from"
            )
