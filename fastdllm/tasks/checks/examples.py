"""Examples of few-shot prompts that are wrong, or give away the answer of the item asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from lm_eval.api.task import ConfigurableTask, Task

from fastdllm.common.errors import UserError, error_line
from fastdllm.tasks.checks.inspection import Doc, DryRun, printing, prints_alike, where_is
from fastdllm.tasks.checks.items import check_values

# The examples of a task with their questions, by question and answer in each form.
Examples = dict[tuple[str, str], list[tuple[Doc, str]]]


def check_examples(task: Task) -> Examples:
    """Refuse examples of few-shot prompts as items, and those that hold the item that is asked.

    Returns the examples, for `check_own_examples`.
    """
    n = task.config.num_fewshot
    if not n or not isinstance(task, ConfigurableTask):
        return {}
    config, of_examples = task.config, task.fewshot_cfg
    if of_examples.fewshot_indices is not None:
        raise UserError(
            f"task {task.task_name!r}: fewshot_config.fewshot_indices: lm-eval would ignore it; "
            "write these examples into fewshot_config.samples, or into a split of their own"
        )
    if of_examples.split is not None and of_examples.samples is not None:
        raise UserError(
            f"task {task.task_name!r}: fewshot_config.samples: lm-eval would ignore them beside "
            f"the split of examples {of_examples.split!r}; take one of them out"
        )
    docs = list(task.fewshot_docs())
    methods = _printing(task)
    for index, doc in enumerate(docs):
        check_values(task, doc, where_is(task, index, "example"), methods)
    items = {
        _shown(task, doc, config, where_is(task, index)) for index, doc in enumerate(task.eval_docs)
    }
    examples: Examples = {}
    for index, doc in enumerate(docs):
        where = where_is(task, index, "example")
        first, *others = _forms(task, doc, where)
        # The text of examples may hold their answers; their target is "" then.
        if not first[1] and of_examples.doc_to_target != "":
            raise UserError(f"{where}: has no answer; complete the data, or leave it out")
        for form in {first, *others}:
            examples.setdefault(form, []).append((doc, first[0] or first[1]))
    leaves_out = _leaves_out(task)
    if not leaves_out and items <= examples.keys():
        split = config.test_split or config.validation_split
        raise UserError(
            f"task {task.task_name!r}: the examples in its prompts come from the items themselves, "
            "which would find their own answers there; draw them from another split, or give "
            f"test_split: {split} and fewshot_split: {split}, so that each is left out of its own"
        )
    # Drawn at random, there is one more in case that it is the item.
    takes_one_more = leaves_out and (
        of_examples.sampler != "first_n" or bool(items & examples.keys())
    )
    if n > len(docs) - takes_one_more:
        raise UserError(
            f"task {task.task_name!r}: num_fewshot {n}: there are only {len(docs)} examples"
            + (", one of which may be the item itself" if takes_one_more else "")
        )
    return examples


def check_own_examples(run: DryRun, examples: Examples) -> None:
    """Refuse an item that is an example in its own prompt, from a split that shares items.

    Names answers of examples that show a model how to answer in a way that would be cut, and an
    item whose description, such as of its subject, is not that of its examples.

    examples: of the task, as `check_examples` returns them.
    """
    task = run.task
    if not examples:
        return
    until = (task.config.generation_kwargs or {}).get("until") or []
    stops = [stop for stop in ([until] if isinstance(until, str) else until) if stop]
    cut = [answer for _, answer in examples if any(stop in answer for stop in stops)]
    if 2 * len(cut) > len(examples):
        run.tell(
            f"task {task.task_name!r}: {len(cut)} of {len(examples)} answers of its examples, such "
            f"as {cut[0][:60]!r}, hold a text of until ({', '.join(map(repr, stops))}), where a "
            "model that answers like them would be cut; correct generation_kwargs or fewshot_config"
        )
    _name_descriptions(run, examples)
    leaves_out = _leaves_out(task)
    for sample in run.samples:
        item, where = sample["doc"], where_is(task, sample["doc_id"])
        form = _shown(task, item, task.config, where)
        prompts = [arguments[0] for arguments in sample["arguments"]]
        for doc, text in examples.get(form, ()):
            is_left_out = leaves_out and doc == item
            if not is_left_out and any(p.count(text) > form[0].count(text) for p in prompts):
                raise UserError(
                    f"{where}: is also an example in its own prompt, with its answer; take the "
                    "items out of the split that the examples are drawn from"
                )


def _name_descriptions(run: DryRun, examples: Examples) -> None:
    """Name an item whose description differs from that of all examples, as in a file misnamed."""
    describe = printing(run.task)["description"]
    try:
        of_examples = {str(describe(doc)) for docs in examples.values() for doc, _ in docs}
    except Exception:  # examples may lack what only items print there
        return
    for index, printed in enumerate(run.printed):
        if (text := str(printed["description"])) not in of_examples:
            run.tell(
                f"{where_is(run.task, index)}: its description {text.strip()[:100]!r} is not that "
                f"of its examples, {min(of_examples).strip()[:100]!r}; check that their files "
                "belong together"
            )
            return


def _printing(task: ConfigurableTask) -> dict[str, Callable[[Doc], Any]]:
    """Return the methods that print examples, by name."""
    ways = task.fewshot_cfg
    methods: dict[str, Callable[[Doc], Any]] = {
        "doc_to_text": partial(task.doc_to_text, doc_to_text=ways.doc_to_text),
        "doc_to_target": partial(task.doc_to_target, doc_to_target=ways.doc_to_target),
        "gen_prefix": partial(task.resolve_field, field=ways.gen_prefix),
    }
    if ways.doc_to_choice is not None:
        choices = partial(task.doc_to_choice, doc_to_choice=ways.doc_to_choice)
        methods["doc_to_choice"] = choices
    return methods


def _leaves_out(task: ConfigurableTask) -> bool:
    """Whether lm-eval leaves out the item itself: where both splits go by one name, or by none."""
    return bool(task.fewshot_cfg.split == task.config.test_split)


def _forms(task: ConfigurableTask, doc: Doc, where: str) -> Iterator[tuple[str, str]]:
    """Yield an example's question and answer as it prints them, and as an item would."""
    yield _shown(task, doc, task.fewshot_cfg, where)
    if not prints_alike(task):
        with suppress(UserError):  # it may lack what only items print
            yield _shown(task, doc, task.config, where)


def _shown(task: ConfigurableTask, doc: Doc, config: Any, where: str) -> tuple[str, str]:
    """Return question and answer as lm-eval prints them.

    config: whose methods are used, those of items or of examples.

    Raises:
        UserError: a method fails, or the label is none of the options.
    """
    try:
        question = task.doc_to_text(doc, config.doc_to_text)
        options = task.doc_to_choice(doc, config.doc_to_choice) if config.doc_to_choice else []
        answer: Any = task.doc_to_target(doc, config.doc_to_target)
        if task.multiple_input:
            question, options = options[question], []
        if isinstance(answer, list):
            answer = answer[0] if answer else None
        if options and isinstance(answer, int):
            if not 0 <= answer < len(options):
                raise ValueError(f"label {answer} is none of its {len(options)} options")
            answer = options[answer]
    except Exception as error:  # a template or a helper of the task may raise anything
        raise UserError(f"{where}: cannot be written: {error_line(error)}") from error
    return str(question).strip(), "" if answer is None else str(answer).strip()
