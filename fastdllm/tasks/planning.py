"""From a task to its plan: collect lm-eval's requests, tokenise them, fix the chunks.

Holds no weights and decodes nothing. The plan does not depend on an experiment or a decoding
setting, so all configurations answer exactly the same token ids in exactly the same chunks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from lm_eval.api.task import ConfigurableTask

from fastdllm.common.console import notice
from fastdllm.common.errors import UserError
from fastdllm.model.tokenizer import encode
from fastdllm.tasks.checks.columns import check_columns
from fastdllm.tasks.checks.examples import check_examples, check_own_examples
from fastdllm.tasks.checks.inspection import DryRun, Tell
from fastdllm.tasks.checks.labels import check_names
from fastdllm.tasks.checks.prompts import check_prompts, check_repeats, name_overlaps
from fastdllm.tasks.checks.target_scores import check_scores
from fastdllm.tasks.generation import check_length, generation_wishes, tokenizer_digest
from fastdllm.tasks.lm_eval_models import Collect
from fastdllm.tasks.lm_eval_tasks import (
    LoadedTask,
    evaluate_task,
    item_digests,
    load_task,
    set_fewshot,
)
from fastdllm.tasks.local_tasks import LocalTask, no_budget
from fastdllm.tasks.metrics import scores_of
from fastdllm.tasks.pairs import PairEncoder
from fastdllm.tasks.plan import (
    ItemError,
    Plan,
    PlanHeader,
    PlannedRequest,
    fixed_chunks,
    requests_text,
)
from fastdllm.tasks.task_source import TaskSource


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """The options of a plan; it also depends on the task file and the tokenizer.

    limit: first n items of each task; None means all. chunk_size: most requests in a chunk.
    max_positions: most tokens that the model can hold, prompt and answer together.
    vocab_size: number of tokens that the model knows. mask_id: its mask token, if it names one.
    model_commit: of a model of the hub. allows_code: see `evaluate_task`.
    """

    task: TaskSource
    limit: int | None
    chunk_size: int
    num_fewshot: int | None
    apply_chat_template: bool
    max_positions: int
    vocab_size: int
    mask_id: int | None = None
    model_commit: str | None = None
    allows_code: bool = False


def make_plan(tokenizer: Any, options: PlanOptions, remarks: Iterable[str] = ()) -> Plan:
    """Plan a task; see `PlanOptions`.

    remarks: about the tokenizer, which the plan names as well.

    Raises:
        UserError: unknown or broken task, no chat template, a prompt that cannot fit the model.
    """
    if options.apply_chat_template:
        _check_chat_template(tokenizer, options.task.name)
    task = load_task(options.task)
    set_fewshot(task, options.num_fewshot)
    # Not once more when a run is scored: its prompts are compared with the plan's then.
    examples = {name: check_examples(leaf) for name, leaf in task.leaves.items()}
    notices: list[str] = []

    def tell(line: str) -> None:
        notice(line)
        notices.append(line)

    for remark in remarks:
        tell(remark)
    for leaf in task.leaves.values():
        check_columns(leaf, tell)
    lm = Collect(tokenizer)
    result = evaluate_task(
        lm,
        task,
        limit=options.limit,
        apply_chat_template=options.apply_chat_template,
        allows_code=options.allows_code,
    )
    dry_runs = {
        name: DryRun.of(leaf, result["samples"][name], tell)
        for name, leaf in task.leaves.items()
        if isinstance(leaf, ConfigurableTask)
    }
    for name, run in dry_runs.items():
        check_names(run)
        check_own_examples(run, examples[name])
        check_repeats(run, options.limit)
        check_prompts(run)
    name_overlaps(list(dry_runs.values()))
    _name_number(task, tell)
    for (metric, filter_name), score in scores_of(result, result["samples"], task).items():
        if not math.isfinite(score):  # not refused: a correlation of equal answers is none either
            tell(
                f"task {options.task.name!r}: its metric '{metric},{filter_name}' is {score} for "
                "dummy answers; a run whose real answers give such a score has no result"
            )
    requests = _checked_requests(lm.collected, tokenizer, task, options)
    for run in dry_runs.values():
        check_scores(run, task.primary, tokenizer, apply_chat_template=options.apply_chat_template)
    content = requests_text(requests).encode()
    digests = item_digests(result["samples"])
    header = PlanHeader(
        task=options.task.name,
        limit=options.limit,
        chunk_size=options.chunk_size,
        num_fewshot=options.num_fewshot,
        apply_chat_template=options.apply_chat_template,
        chat_template=tokenizer.chat_template if options.apply_chat_template else None,
        model_tokenizer_digest=tokenizer_digest(tokenizer),
        model_commit=options.model_commit,
        lm_eval_version=version("lm_eval"),
        n_items=sum(map(len, digests.values())),
        n_requests=len(requests),
        item_digests=digests,
        notices=notices,
        digest=hashlib.sha256(content).hexdigest(),
        chunks=fixed_chunks(requests, options.chunk_size),
    )
    return Plan(header=header, requests=tuple(requests))


def _check_chat_template(tokenizer: Any, task: str) -> None:
    """Refuse a model without a chat template, and one that gives other prompts each day."""
    if not tokenizer.chat_template:
        raise UserError(
            f"{tokenizer.name_or_path}: has no chat template; set apply_chat_template to false "
            f"for task {task!r} in workflow_config.yaml"
        )
    if "strftime_now" in tokenizer.chat_template:
        # Asked today and scored tomorrow, no prompt would have an answer.
        raise UserError(
            f"{tokenizer.name_or_path}: its chat template writes the date (strftime_now), so that "
            "prompts differ from day to day; write a fixed date into it"
        )


def _name_number(task: LoadedTask, tell: Tell) -> None:
    """Name another number of items than the published data has, as of another split or a part.

    All items count, whatever the limit.
    """
    published = task.metadata.get("n_items")
    n_items = sum(len(leaf.eval_docs) for leaf in task.leaves.values())
    if published not in (None, n_items):
        tell(
            f"task {task.name!r}: its data has {n_items} items, and the published data "
            f"{published}; check its files before you compare the score with others"
        )


def _checked_requests(
    collected: Sequence[tuple[str, Any]], tokenizer: Any, task: LoadedTask, options: PlanOptions
) -> list[PlannedRequest]:
    """Return the requests of a plan, each of which the model can be asked."""
    try:
        requests = planned_requests(collected, tokenizer)
        for request in requests:
            check_length(request, max_positions=options.max_positions, block_size=1)
            check_token_ids(
                request, tokenizer, vocab_size=options.vocab_size, mask_id=options.mask_id
            )
    except ItemError as error:
        name, _, index = error.item.rpartition(":")
        leaf = task.leaves[name]
        place = leaf.place(int(index)) if isinstance(leaf, LocalTask) else None
        raise UserError(f"{place}: {error}" if place else str(error)) from None
    return requests


def check_token_ids(
    request: PlannedRequest, tokenizer: Any, *, vocab_size: int, mask_id: int | None
) -> None:
    """Refuse a text that holds the mask token, or a token that the model does not know.

    Raises:
        UserError: naming the item and the token.
    """
    tokens = request.prompt_ids + request.target_ids
    if mask_id in tokens:
        raise ItemError(
            request.item,
            f"its text holds {tokenizer.decode([mask_id])!r}, the mask, which the model reads as a "
            "position that is not known yet; leave it out",
        )
    beyond = max(tokens)
    if beyond >= vocab_size:
        raise ItemError(
            request.item,
            f"{tokenizer.decode([beyond])!r} is token {beyond}, but the model knows {vocab_size}; "
            "its tokenizer.json is another model's",
        )


def planned_requests(
    collected: Sequence[tuple[str, Any]], tokenizer: Any, budget: int | None = None
) -> list[PlannedRequest]:
    """Tokenise lm-eval's requests, each distinct one once, in the order of first appearance.

    Args:
        collected: each request with its id.
        budget: `max_gen_toks` of requests whose task names none.

    Raises:
        UserError: naming the item that cannot be asked.
    """
    planned: dict[str, PlannedRequest] = {}
    options: dict[tuple[str, tuple[int, ...]], str] = {}
    encode_pair = PairEncoder(tokenizer)
    for key, instance in collected:
        if key in planned:
            continue
        item = f"{instance.task_name}:{instance.doc_id}"
        if not instance.args[0].strip():
            # Nor are there likelihoods without one, as acc_mutual_info wants: nothing would predict
            # the first token.
            raise ItemError(item, "the prompt is empty; check doc_to_text and metric_list")
        if instance.request_type == "loglikelihood":
            prompt_ids, target_ids = encode_pair(*instance.args)
            if not target_ids:
                raise ItemError(item, f"empty option {instance.args[1]!r}; check doc_to_choice")
            context, option = instance.args
            other = options.setdefault((context, target_ids), option)
            if other != option:
                raise ItemError(
                    item,
                    f"options {other!r} and {option!r} are the same tokens, between which no model "
                    "can choose; its tokenizer lacks their letters",
                )
            gen_kwargs = {}
        else:
            prompt_ids, target_ids = encode(tokenizer, instance.args[0]), ()
            gen_kwargs = generation_wishes(instance.args[1], f"item {item}: generation_kwargs")
            if "max_gen_toks" not in gen_kwargs:
                if budget is None:
                    raise no_budget(instance.task_name)
                gen_kwargs["max_gen_toks"] = budget
            if not prompt_ids:
                raise ItemError(item, "the prompt has no tokens; check doc_to_text")
        planned[key] = PlannedRequest(
            id=key,
            kind=instance.request_type,
            item=item,
            prompt_ids=prompt_ids,
            args=tuple(instance.args),
            target_ids=target_ids,
            gen_kwargs=gen_kwargs,
        )
    return list(planned.values())
