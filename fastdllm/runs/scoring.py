"""From answers to scores: lm-eval replays them, so its own filters and metrics decide.

Makes the content of results.json (lm-eval's result as plain JSON) and samples.jsonl (one line per
item), and the metrics with their intervals. Needs tokenizer and task file, no weights, no GPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

from lm_eval.api.task import Task

from fastdllm.common.errors import UserError
from fastdllm.records.summary import ItemGroup, Items, Metric, pack_bits
from fastdllm.runs.answer_records import Answer
from fastdllm.tasks.generation import AnswerText
from fastdllm.tasks.lm_eval_models import Replay
from fastdllm.tasks.lm_eval_tasks import LoadedTask, evaluate_task, item_digests, set_fewshot
from fastdllm.tasks.metrics import (
    chosen_option,
    finite,
    is_number,
    is_share,
    is_tied,
    metrics_of,
    right_or_wrong,
    scores_of,
)
from fastdllm.tasks.plan import Plan, plan_again, request_id


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of a run; results and samples are the content of the files of the same name."""

    results: dict[str, Any]
    samples: list[dict[str, Any]]
    metrics: list[Metric]
    group_results: dict[str, float] | None
    items: Items | None
    unused_answers: int
    tied_items: int


def score_answers(
    plan: Plan,
    answers: Iterable[Answer],
    *,
    tokenizer: Any,
    task: LoadedTask,
    bootstrap_iters: int,
    allows_code: bool = False,
) -> Scores:
    """Score the answers of a complete run; allows_code: see `evaluate_task`.

    Raises:
        UserError: the task asks a prompt that was not answered, an item has another target than
            when it was planned, or there is no such primary metric.
    """
    by_id = {answer.id: answer for answer in answers}
    texts = answer_texts(plan, by_id, tokenizer)
    lm = Replay(
        tokenizer,
        texts=texts,
        likelihoods={
            answer.id: (answer.logprob, bool(answer.is_greedy))
            for answer in by_id.values()
            if answer.logprob is not None
        },
    )
    set_fewshot(task, plan.header.num_fewshot)
    result = evaluate_task(
        lm,
        task,
        limit=plan.header.limit,
        apply_chat_template=plan.header.apply_chat_template,
        bootstrap_iters=bootstrap_iters,
        allows_code=allows_code,
    )
    samples = result.pop("samples")
    _check_items(plan, samples)
    short = _short_names(result, task)
    chosen = {
        # In this order a summary need not have the names twice.
        name: _primary_samples(samples[name], task.primary[1])
        for name in sorted(task.leaves, key=short.__getitem__)
    }
    flat = [(name, sample) for name, of_task in chosen.items() for sample in of_task]
    metric = task.primary[0]
    right = right_or_wrong(sample.get(metric) for _, sample in flat)
    if right and not is_share(right, scores_of(result, samples, task)[task.primary]):
        right = None  # what items show would be another score
    return Scores(
        results=plain(result),
        samples=[
            _item_record(name, task.leaves[name], sample, metric=metric, answers=by_id)
            for name, sample in flat
        ],
        metrics=metrics_of(result, samples, task),
        group_results=_group_results(result, task, short),
        items=_items(right, {short[name]: len(of_task) for name, of_task in chosen.items()}),
        unused_answers=lm.unused,
        tied_items=sum(is_tied(task.leaves[name], sample, metric) for name, sample in flat),
    )


def _check_items(plan: Plan, samples: Mapping[str, list[dict[str, Any]]]) -> None:
    header = plan.header
    for task, digests in item_digests(samples).items():
        planned = header.item_digests.get(task, [])
        for item, (digest, then) in enumerate(zip_longest(digests, planned)):
            if digest != then:
                raise UserError(
                    f"task {task!r}, item {item}: asks or expects something else than when it was "
                    f"planned; {plan_again(header.task, header.limit)}"
                )


def answer_texts(plan: Plan, by_id: Mapping[str, Answer], tokenizer: Any) -> dict[str, str]:
    """Return the text of each generated answer, truncated at the first `until` of its request."""
    cutters: dict[str, AnswerText] = {}
    texts = {}
    for request in plan.requests:
        answer = by_id.get(request.id)
        if answer is None or answer.token_ids is None:
            continue
        until = request.gen_kwargs.get("until")
        cutter = cutters.setdefault(repr(until), AnswerText(tokenizer, until))
        texts[request.id] = cutter.text(answer.token_ids, finish_reason=answer.finish_reason)
    return texts


def plain(value: Any) -> Any:
    """Return `value` as plain JSON: NumPy scalars as numbers, what JSON cannot hold as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(inner) for inner in value]
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    is_number = isinstance(value, float) and math.isfinite(value)
    if is_number or value is None or isinstance(value, bool | int | str):
        return value
    # The default text of a function contains its address, which differs from run to run.
    return getattr(value, "__qualname__", type(value).__name__) if callable(value) else str(value)


def _items(right: list[bool] | None, sizes: Mapping[str, int]) -> Items | None:
    """The items' bits, with the sizes of the subtasks if there are several."""
    if right is None:
        return None
    groups = [ItemGroup(name, n) for name, n in sizes.items()] if len(sizes) > 1 else None
    return Items(n=len(right), correct_bits=pack_bits(right), groups=groups)


def _primary_samples(samples: list[dict[str, Any]], filter_name: str) -> list[dict[str, Any]]:
    """The samples of one filter (the first one if a subtask lacks it), in document order."""
    names = {sample["filter"] for sample in samples}
    chosen = filter_name if filter_name in names else samples[0]["filter"]
    return sorted(
        (sample for sample in samples if sample["filter"] == chosen), key=lambda s: s["doc_id"]
    )


def _group_results(
    result: Mapping[str, Any], task: LoadedTask, short: Mapping[str, str]
) -> dict[str, float] | None:
    """Return the score of each subtask, and of the groups of them within the task."""
    if len(task.leaves) < 2:
        return None
    key = ",".join(task.primary)
    scores = {name: result["results"][name] for name in task.leaves}
    scores |= {name: of for name, of in result.get("groups", {}).items() if name != task.name}
    return {
        short[name]: round(finite(of[key], key, name), 6)
        for name, of in scores.items()
        if is_number(of.get(key))
    }


def _short_names(result: Mapping[str, Any], task: LoadedTask) -> dict[str, str]:
    """Return the names of subtasks and groups without that of the task before them.

    lm-eval writes mmlu::mmlu_stem for a group that mmlu defines itself.
    """
    names = [*task.leaves, *result.get("groups", {})]
    within = [name.removeprefix(f"{task.name}::") for name in names]
    short = [name.removeprefix(f"{task.name}_") for name in within]
    return dict(zip(names, short if len(set(short)) == len(names) else names, strict=True))


def _item_record(
    task_name: str,
    task: Task,
    sample: Mapping[str, Any],
    *,
    metric: str,
    answers: Mapping[str, Answer],
) -> dict[str, Any]:
    """One line of samples.jsonl."""
    score = sample.get(metric)
    record: dict[str, Any] = {
        "task": task_name,
        "item": sample["doc_id"],
        "prompt": sample["arguments"][0][0],
        "target": sample["target"],
    }
    right = right_or_wrong([score])
    record |= {"correct": right[0]} if right else {"score": score}
    first = answers.get(request_id("generate_until", sample["arguments"][0]))
    if first is None or first.passes is None or first.token_ids is None:
        options = [
            {"text": args[1], "logprob": resps[0][0]}
            for args, resps in zip(sample["arguments"], sample["resps"], strict=True)
        ]
        best = options[chosen_option(task, sample, metric)]
        return plain(record | {"answer": best["text"], "options": options})
    return plain(
        record
        | {
            "answer": sample["resps"][0][0],
            "parsed": sample["filtered_resps"][0],
            "tokens": len(first.token_ids),
            "token_ids": first.token_ids,
            "committed_at": first.committed_at,
            **({"input_changes": first.input_changes} if first.input_changes else {}),
            "finish_reason": first.finish_reason,
            "passes": asdict(first.passes),
        }
    )
