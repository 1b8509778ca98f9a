"""Right answers that could not score, and wrong ones that would, found before a model gives any.

lm-eval's own filters and metric judge what no model wrote: the target of each item, as it would be
if a model gave it, and an empty answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask, Task

from fastdllm.common.errors import UserError, error_line
from fastdllm.tasks.checks.items import is_local, where_is
from fastdllm.tasks.checks.labels import named_otherwise
from fastdllm.tasks.checks.printing import mapped
from fastdllm.tasks.generation import AnswerText, generation_wishes
from fastdllm.tasks.lm_eval_models import DUMMY
from fastdllm.tasks.metrics import check_share, right_or_wrong

# What no model writes around an answer, characters without width among it.
_UNSEEN = r"[\s\u200b\u200e\u200f\u2060\ufeff]+"
_AROUND = re.compile(rf"^{_UNSEEN}|{_UNSEEN}$")
_NUMBER = re.compile(r"-?\d+(?:[./]\d+)*")


def check_scores(
    task: Task,
    samples: Sequence[Mapping[str, Any]],
    primary: tuple[str, str],
    tokenizer: Any,
    tell: Callable[[str], None],
    *,
    apply_chat_template: bool,
) -> None:
    """Refuse items whose target is wrong as an answer, or for which an empty answer is right.

    Local data can be corrected, so one of a hundred such items is enough. Of published
    data there may be a few, as others have them, which are named; and where no item scores for its
    own target, the target is no complete answer and says nothing.

    samples: of the task, as lm-eval returns them for dummy answers.
    primary: metric and filter of the task's score.
    tell: is given the lines that only name something.

    Raises:
        UserError: naming the first such item.
    """
    if not isinstance(task, ConfigurableTask) or task.OUTPUT_TYPE != "generate_until":
        return
    metric, chosen = primary
    filters = {ensemble.name: ensemble for ensemble in task._filters}
    judge = _Judge(task, task.instances, filters.get(chosen, task._filters[0]), metric, tell)
    of_items = {s["doc_id"]: s for s in samples if s["filter"] == judge.filters.name}
    # Where code is run, targets are its tests.
    if len(of_items) != len(judge.instances) or task.config.unsafe_code:
        return
    dummies = right_or_wrong(of_items[instance.doc_id].get(metric) for instance in judge.instances)
    if dummies is None:
        return
    targets = [_texts(task, of_items[instance.doc_id]) for instance in judge.instances]
    answers = [[_AROUND.sub("", text) for text in texts] for texts in targets]
    if all(text[:1].isspace() for texts in targets for text in texts):
        if apply_chat_template:
            _check_beginnings(judge, targets, answers)
        answers = targets  # of models that go on with a text
    _check_dummies(judge, targets, dummies)
    empty = _check_empty(judge, targets)
    right = _check_cut(judge, targets, answers, empty, tokenizer)
    if task.config.process_results is not None:
        # Besides, what scores the items itself knows what the target is.
        _check_numbers(judge, {i: t for i, t in enumerate(answers) if i not in right | empty})
        return
    never = {i: texts[0] for i, texts in enumerate(answers) if i not in right | empty}
    _check_changed(judge, targets, never)
    _check_differences(judge, targets)
    if len(targets) > 1 and all(texts == targets[0] for texts in targets):
        tell(
            f"task {task.task_name!r}: the target of all {len(targets)} items is "
            f"{_short(targets[0])}, so that a model which always says so would have 100 %"
        )


def check_names(task: Task, tell: Callable[[str], None]) -> None:
    """Refuse labels to which the data gives the names of the options in another order.

    tell: is given the line about published data, which others use as they are, and about options
        yes and no.

    Raises:
        UserError: naming a label.
    """
    if not isinstance(task, ConfigurableTask) or task.config.doc_to_choice is None:
        return
    column = str(task.config.doc_to_target).strip("{ }")
    names = getattr(getattr(task.eval_docs, "features", {}).get(column), "names", None)
    options = task.doc_to_choice(task.eval_docs[0])
    if names is None or (found := named_otherwise(names, options)) is None:
        return
    line = (
        f"task {task.task_name!r}: the data names the label {names.index(found[0])} of column "
        f"{column!r} {found[0]!r}, but doc_to_choice has {found[1]!r} in its place; give the "
        f"options in the order of {', '.join(names)}"
    )
    # Yes and no may answer a question for the opposite.
    if is_local(task) and found[0].lower() in map(str.lower, options):
        raise UserError(line)
    tell(line)


def _check_beginnings(
    judge: _Judge, targets: Sequence[Sequence[str]], answers: Sequence[Sequence[str]]
) -> None:
    """Refuse targets that are right only after a space, with which no answer in a chat begins."""
    lost = _any_right(judge, dict(enumerate(targets))) - _any_right(judge, dict(enumerate(answers)))
    if lost:
        raise UserError(
            f"{where_is(judge.task, min(lost))}: its target {_short(targets[min(lost)])} begins "
            "with a space, which answers under a chat template lack; correct doc_to_target, or set "
            f"apply_chat_template to false for the task; {len(lost)} of {len(targets)} items"
        )


def _check_dummies(
    judge: _Judge, targets: Sequence[Sequence[str]], dummies: Sequence[bool]
) -> None:
    """Refuse scores by which one answer is right for most items, whose targets differ."""
    task = judge.task
    found = [texts for texts, is_right in zip(targets, dummies, strict=True) if is_right]
    differ = len(set(map(tuple, found))) > 2 and not set.intersection(*map(set, found))
    if differ and 2 * len(found) > len(targets):
        few = f"{_short(found[0])}, {_short(found[-1])}"
        judge.complain(
            f"task {task.task_name!r}: the answer {DUMMY!r} would be right for {len(found)} of "
            f"{len(targets)} items, whose targets differ ({few}); correct "
            "filter_list, metric_list or process_results",
            is_refused=task.config.process_results is None,
        )


def _check_empty(judge: _Judge, targets: Sequence[Sequence[str]]) -> set[int]:
    """Refuse items for which an empty answer is right, which their target is not; return them."""
    found = judge.right({i: "" for i, texts in enumerate(targets) if all(map(str.strip, texts))})
    is_plain = judge.task.config.process_results is None
    # Other scores may be high for saying nothing, as one for saying nothing harmful.
    if found and (is_plain or 2 * len(found) >= len(targets)):
        i = min(found)
        judge.complain(
            f"{where_is(judge.task, i)}: an empty answer would be right, its target being "
            f"{_short(targets[i])}; {len(found)} of {len(targets)} items; correct filter_list "
            "(fallback, default_value) or metric_list (what it ignores)",
            is_refused=is_plain and _is_too_many(judge.task, len(found)),
        )
    return found


def _check_cut(
    judge: _Judge,
    targets: Sequence[Sequence[str]],
    answers: Sequence[Sequence[str]],
    empty: set[int],
    tokenizer: Any,
) -> set[int]:
    """Refuse items whose target is right as an answer, but not as it would be cut.

    answers: the targets as models give them.

    Returns the items whose target is right.
    """
    task = judge.task
    wishes = generation_wishes(judge.instances[0].args[1], f"task {task.task_name!r}")
    as_answered = _Answered(tokenizer, wishes["max_gen_toks"], wishes.get("until", ()))
    right = _any_right(judge, {i: as_answered(texts) for i, texts in enumerate(answers)})
    lost = _any_right(judge, {i: t for i, t in enumerate(answers) if i not in right})
    if lost - empty:
        i = min(lost - empty)
        judge.complain(
            f"{where_is(task, i)}: {as_answered.why_not(answers[i][0])}, so that its target "
            f"{_short(targets[i])} would not be right as an answer; {len(lost - empty)} of "
            f"{len(targets)} items; correct generation_kwargs or doc_to_target",
            is_refused=_is_too_many(task, len(lost - empty)),
        )
    return right | lost


def _check_changed(
    judge: _Judge, targets: Sequence[Sequence[str]], never: Mapping[int, str]
) -> None:
    """Refuse items whose target is wrong as an answer, as the filters or the metric change it.

    never: the target of each item that is wrong so.
    """
    read = judge.read(never)
    if 2 * len(never) > len(targets):
        # Most targets are no complete answers, or the metric compares what the filters find there
        # with something else.
        nothing = judge.read(dict.fromkeys(never, ""))
        never = {i: text for i, text in never.items() if read[i] != nothing[i]}
        if judge.metric != "exact_match" or 2 * len(never) < len(targets):
            return
    if never:
        i = min(never)
        judge.complain(
            f"{where_is(judge.task, i)}: its target {_short(targets[i])} would not be right as an "
            f"answer, which the filters make {_short([read[i]])}; {len(never)} of {len(targets)} "
            "items; correct filter_list, metric_list or doc_to_target",
            is_refused=is_local(judge.task) and _is_too_many(judge.task, len(never)),
        )


@dataclass(frozen=True, slots=True)
class _Judge:
    """Says by the filters and the metric of a task which answers are right."""

    task: ConfigurableTask
    instances: Sequence[Instance]
    filters: Any
    metric: str
    tell: Callable[[str], None]

    def complain(self, line: str, *, is_refused: bool) -> None:
        """Refuse the task, or only tell."""
        if is_refused:
            raise UserError(line)
        self.tell(line)

    def right(self, answers: Mapping[int, str]) -> set[int]:
        """Return the items whose answers are right.

        Raises:
            UserError: filters or metric fail for an answer, as they would after a run.
        """
        asked = self._filtered(answers)
        return {i for i in asked if right_or_wrong([self._score(asked[i])]) == [True]}

    def read(self, answers: Mapping[int, str]) -> dict[int, Any]:
        """Return what the filters make of answers."""
        asked = self._filtered(answers)
        return {i: instance.filtered_resps[self.filters.name] for i, instance in asked.items()}

    def _filtered(self, answers: Mapping[int, str]) -> dict[int, Instance]:
        asked = {}
        for i, text in answers.items():
            instance = self.instances[i]
            answered = [text] * len(instance.resps)
            asked[i] = replace(instance, resps=answered, filtered_resps={})
        try:
            if asked:
                self.filters.apply(list(asked.values()))
        except Exception as error:  # a task's own filter may raise anything
            raise self._fails(next(iter(asked.values())), error) from error
        if not all(self.filters.name in instance.filtered_resps for instance in asked.values()):
            raise UserError(
                f"task {self.task.task_name!r}: filter_list {self.filters.name!r} gives back fewer "
                "answers than it gets; let its filters return one list for each"
            )
        return asked

    def _score(self, instance: Instance) -> Any:
        answer = instance.filtered_resps[self.filters.name]
        try:
            score = self.task.process_results(instance.doc, [answer]).get(self.metric)
        except Exception as error:  # a task's own function may raise anything
            raise self._fails(instance, error) from error
        check_share(self.task, instance.doc_id or 0, self.metric, score)
        return score

    def _fails(self, instance: Instance, error: Exception) -> UserError:
        return UserError(
            f"{where_is(self.task, instance.doc_id or 0)}: an answer such as "
            f"{_short(instance.resps[:1])} cannot be scored: {error_line(error)}"
        )


class _Answered:
    """What is left of a text if a model gives it: tokens, budget, and until."""

    def __init__(self, tokenizer: Any, budget: int, until: Sequence[str]) -> None:
        self._tokenizer, self._budget, self._until = tokenizer, budget, until
        self._cutter = AnswerText(tokenizer, until)

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """Return the texts as answered; after them, those too long without their beginnings.

        What is right by its end, as a number after its derivation, can be said in fewer words.
        """
        of_all = list(map(self._ids, texts))
        ends = [ids[-self._budget :] for ids in of_all if len(ids) > self._budget]
        parts = [ids[: self._budget] for ids in of_all] + ends
        return [self._cutter.text(part) for part in parts]

    def why_not(self, text: str) -> str:
        """Say what is cut off a text."""
        ids = self._ids(text)
        until = next((stop for stop in self._until if stop in text), None)
        if until is not None:
            return f"answers end at {until!r}, a text of until"
        if len(ids) > self._budget:
            return f"max_gen_toks ends answers after {self._budget} tokens of {len(ids)}"
        return f"the model's tokenizer writes it as {_short([self._cutter.text(ids)])}"

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def _texts(task: ConfigurableTask, sample: Mapping[str, Any]) -> list[str]:
    """Return the target of an item, or each of several that are right."""
    target = sample["target"]
    if isinstance(target, int) and task.config.doc_to_choice is not None:
        target = task.doc_to_choice(sample["doc"])[target]
    listed = target if isinstance(target, list) and target else [target]
    return [str(text) for text in listed]


def _any_right(judge: _Judge, answers: Mapping[int, Sequence[str]]) -> set[int]:
    """Return the items of which one of several answers is right."""
    right: set[int] = set()
    for turn in range(max(map(len, answers.values()), default=0)):
        left = {i: t[turn] for i, t in answers.items() if i not in right and turn < len(t)}
        right |= judge.right(left)
    return right


def _check_numbers(judge: _Judge, wrong: Mapping[int, Sequence[str]]) -> None:
    """Refuse a function of the task that compares answers, which are texts, with numbers.

    wrong: the targets that are not right as answers.
    """
    docs = {i: mapped(judge.instances[i].doc, _number_as_text) for i in wrong}
    of_texts = [replace(one, doc=docs.get(i, one.doc)) for i, one in enumerate(judge.instances)]
    try:
        found = _any_right(replace(judge, instances=of_texts), wrong)
    except UserError:  # it needs the numbers
        return
    if 2 * len(found) > len(judge.instances):
        i = min(found)
        raise UserError(
            f"{where_is(judge.task, i)}: its target {_short(wrong[i])} is wrong as an answer: "
            "process_results compares it with a number, which no text equals; compare it with "
            f"str(...); {len(found)} of {len(judge.instances)} items"
        )


def _number_as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _check_differences(judge: _Judge, targets: Sequence[Sequence[str]]) -> None:
    """Refuse targets of different numbers, of which exact_match ignores what tells them apart."""
    task = judge.task
    exact_match, options = (
        of_all.get("exact_match") for of_all in (task._metric_fn_list, task._metric_fn_kwargs)
    )
    if exact_match is None or not options:
        return
    ignored = r"[\W_\d]" if options.get("ignore_numbers") else r"[\W_]"
    first: dict[str, tuple[int, str]] = {}
    for i, text in ((i, text) for i, texts in enumerate(targets) for text in texts):
        j, other = first.setdefault(re.sub(ignored, "", text.lower()), (i, text))
        ours, theirs = (_NUMBER.findall(t.replace(",", "")) for t in (text, other))
        if ours == theirs or i == j:
            continue
        if exact_match(references=[other], predictions=[text], **options)["exact_match"]:
            judge.complain(
                f"{where_is(task, i)}: exact_match takes its target {_short([text])} for that of "
                f"item {j}, {_short([other])} ({', '.join(options)}); correct metric_list",
                is_refused=is_local(task),
            )
            return


def _is_too_many(task: Task, found: int) -> bool:
    """Whether items that were found so far, maybe under a limit, are too many of all.

    Local files may be copies of published data, in which a few of many are known to be odd.
    """
    most = 0.01 if is_local(task) else 0.5
    return found >= most * len(task.eval_docs)


def _short(texts: Sequence[Any]) -> str:
    shown = repr(texts[0] if len(texts) == 1 else list(texts))
    return shown if len(shown) <= 80 else f"{shown[:60]}...{shown[-17:]}"
