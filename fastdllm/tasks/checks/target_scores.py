"""Right answers that could not score, and wrong ones that would, found before a model gives any.

lm-eval's own filters and metric judge what no model wrote: the target of each item, as it would be
if a model gave it, and an empty answer.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask, Task

from fastdllm.common.errors import UserError, error_line
from fastdllm.tasks.checks.inspection import (
    DryRun,
    Tell,
    exact_match_of,
    is_local,
    mapped,
    right_answers,
    where_is,
)
from fastdllm.tasks.generation import AnswerText, generation_wishes
from fastdllm.tasks.lm_eval_models import DUMMY
from fastdllm.tasks.metrics import check_share, right_or_wrong

# What no model writes around an answer, characters without width among it.
_UNSEEN = r"[\s\u200b\u200e\u200f\u2060\ufeff]+"
_AROUND = re.compile(rf"^{_UNSEEN}|{_UNSEEN}$")
_NUMBER = re.compile(r"-?\d+(?:[./]\d+)*")

Texts = Sequence[str]  # the target of an item, or each of several that are right


def check_scores(
    run: DryRun, primary: tuple[str, str], tokenizer: Any, *, apply_chat_template: bool
) -> None:
    """Refuse items whose target is wrong as an answer, or for which an empty answer is right.

    Local data can be corrected, so one of a hundred such items is enough. Of published
    data there may be a few, as others have them, which are named; and where no item scores for its
    own target, the target is no complete answer and says nothing.

    primary: metric and filter of the task's score.
    """
    task, (metric, chosen) = run.task, primary
    # Where code is run, targets are its tests.
    if task.OUTPUT_TYPE != "generate_until" or task.config.unsafe_code:
        return
    filters = {ensemble.name: ensemble for ensemble in task._filters}.get(chosen, task._filters[0])
    of_items = {s["doc_id"]: s for s in run.samples if s["filter"] == filters.name}
    samples = [of_items.get(instance.doc_id, {}) for instance in task.instances]
    dummies = right_or_wrong(sample.get(metric) for sample in samples)
    if dummies is None or len(of_items) != len(samples):
        return
    targets = [right_answers(run.printed[instance.doc_id or 0]) for instance in task.instances]
    answers: Sequence[Texts] = [[_AROUND.sub("", text) for text in texts] for texts in targets]
    judge = _Judge(task, task.instances, targets, filters, metric, run.tell)
    if all(text[:1].isspace() for texts in targets for text in texts):
        if apply_chat_template:
            _check_beginnings(judge, answers)
        answers = targets  # of models that go on with a text
    _check_dummies(judge, dummies)
    empty = _check_empty(judge)
    right = _check_cut(judge, answers, empty, tokenizer)
    wrong = {i: texts for i, texts in enumerate(answers) if i not in right | empty}
    if task.config.process_results is not None:
        # Besides, what scores the items itself knows what the target is.
        _check_numbers(judge, wrong)
        return
    _check_changed(judge, {i: texts[0] for i, texts in wrong.items()})
    _check_differences(judge)
    if len(targets) > 1 and all(texts == targets[0] for texts in targets):
        run.tell(
            f"task {task.task_name!r}: the target of all {len(targets)} items is "
            f"{_short(targets[0])}, so that a model which always says so would have 100 %"
        )


def _check_beginnings(judge: _Judge, answers: Sequence[Texts]) -> None:
    """Refuse targets that are right only after a space, with which no answer in a chat begins."""
    with_space, without = (judge.any_right(dict(enumerate(of))) for of in (judge.targets, answers))
    lost = with_space - without
    if lost:
        judge.complain(
            lost,
            f"its target {judge.first(lost)} begins with a space, which answers under a chat "
            "template lack",
            "correct doc_to_target, or set apply_chat_template to false for the task",
        )


def _check_dummies(judge: _Judge, dummies: Sequence[bool]) -> None:
    """Refuse scores by which one answer is right for most items, whose targets differ."""
    task, targets = judge.task, judge.targets
    found = [texts for texts, is_right in zip(targets, dummies, strict=True) if is_right]
    differ = len(set(map(tuple, found))) > 2 and not set.intersection(*map(set, found))
    if differ and 2 * len(found) > len(targets):
        few = f"{_short(found[0])}, {_short(found[-1])}"
        judge.refuse_or_tell(
            f"task {task.task_name!r}: the answer {DUMMY!r} would be right for {len(found)} of "
            f"{len(targets)} items, whose targets differ ({few}); correct "
            "filter_list, metric_list or process_results",
            is_refused=task.config.process_results is None,
        )


def _check_empty(judge: _Judge) -> set[int]:
    """Refuse items for which an empty answer is right, which their target is not; return them."""
    filled = (i for i, texts in enumerate(judge.targets) if all(map(str.strip, texts)))
    found = judge.right(dict.fromkeys(filled, ""))
    is_plain = judge.task.config.process_results is None
    # Other scores may be high for saying nothing, as one for saying nothing harmful.
    if found and (is_plain or 2 * len(found) >= len(judge.targets)):
        judge.complain(
            found,
            f"an empty answer would be right, its target being {judge.first(found)}",
            "correct filter_list (fallback, default_value) or metric_list (what it ignores)",
            is_refused=is_plain and _is_too_many(judge.task, len(found)),
        )
    return found


def _check_cut(
    judge: _Judge, answers: Sequence[Texts], empty: set[int], tokenizer: Any
) -> set[int]:
    """Refuse items whose target is right as an answer, but not as it would be cut.

    answers: the targets as models give them.

    Returns the items whose target is right.
    """
    wishes = generation_wishes(judge.instances[0].args[1], f"task {judge.task.task_name!r}")
    as_answered = _Answered(tokenizer, wishes["max_gen_toks"], wishes.get("until", ()))
    right = judge.any_right({i: as_answered(texts) for i, texts in enumerate(answers)})
    lost = judge.any_right({i: t for i, t in enumerate(answers) if i not in right})
    if found := lost - empty:
        judge.complain(
            found,
            f"{as_answered.why_not(answers[min(found)][0])}, so that its target "
            f"{judge.first(found)} would not be right as an answer",
            "correct generation_kwargs or doc_to_target",
            is_refused=_is_too_many(judge.task, len(found)),
        )
    return right | lost


def _check_changed(judge: _Judge, never: Mapping[int, str]) -> None:
    """Refuse items whose target is wrong as an answer, as the filters or the metric change it.

    never: the target of each item that is wrong so.
    """
    read = judge.read(never)
    if 2 * len(never) > len(judge.targets):
        # Most targets are no complete answers, or the metric compares what the filters find there
        # with something else.
        nothing = judge.read(dict.fromkeys(never, ""))
        never = {i: text for i, text in never.items() if read[i] != nothing[i]}
        if judge.metric != "exact_match" or 2 * len(never) < len(judge.targets):
            return
    if never:
        judge.complain(
            never,
            f"its target {judge.first(never)} would not be right as an answer, which the filters "
            f"make {_short([read[min(never)]])}",
            "correct filter_list, metric_list or doc_to_target",
            is_refused=is_local(judge.task) and _is_too_many(judge.task, len(never)),
        )


def _check_numbers(judge: _Judge, wrong: Mapping[int, Texts]) -> None:
    """Refuse a function of the task that compares answers, which are texts, with numbers.

    wrong: the targets that are not right as answers.
    """
    docs = {i: mapped(judge.instances[i].doc, _number_as_text) for i in wrong}
    of_texts = [replace(one, doc=docs.get(i, one.doc)) for i, one in enumerate(judge.instances)]
    try:
        found = replace(judge, instances=of_texts).any_right(wrong)
    except UserError:  # it needs the numbers
        return
    if 2 * len(found) > len(judge.instances):
        judge.complain(
            found,
            f"its target {_short(wrong[min(found)])} is wrong as an answer: process_results "
            "compares it with a number, which no text equals",
            "compare it with str(...)",
        )


def _number_as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _check_differences(judge: _Judge) -> None:
    """Refuse targets of different numbers, of which exact_match ignores what tells them apart."""
    task, exact_match = judge.task, exact_match_of(judge.task)
    if exact_match is None:
        return
    ignored = r"[\W_\d]" if exact_match.keywords.get("ignore_numbers") else r"[\W_]"
    first: dict[str, tuple[int, str]] = {}
    for i, text in ((i, text) for i, texts in enumerate(judge.targets) for text in texts):
        j, other = first.setdefault(re.sub(ignored, "", text.lower()), (i, text))
        ours, theirs = (_NUMBER.findall(t.replace(",", "")) for t in (text, other))
        if ours == theirs or i == j:
            continue
        if exact_match(references=[other], predictions=[text])["exact_match"]:
            options = ", ".join(exact_match.keywords)
            judge.refuse_or_tell(
                f"{where_is(task, i)}: exact_match takes its target {_short([text])} for that of "
                f"item {j}, {_short([other])} ({options}); correct metric_list",
                is_refused=is_local(task),
            )
            return


@dataclass(frozen=True, slots=True)
class _Judge:
    """Says by the filters and the metric of a task which answers are right.

    targets: by item, in the order of the instances.
    """

    task: ConfigurableTask
    instances: Sequence[Instance]
    targets: Sequence[Texts]
    filters: Any
    metric: str
    tell: Tell

    def complain(
        self, found: Collection[int], says: str, advice: str, *, is_refused: bool = True
    ) -> None:
        """Refuse the task, naming the first of the items found, or only tell."""
        place, count = where_is(self.task, min(found)), f"{len(found)} of {len(self.targets)} items"
        self.refuse_or_tell(f"{place}: {says}; {count}; {advice}", is_refused=is_refused)

    def refuse_or_tell(self, line: str, *, is_refused: bool) -> None:
        if is_refused:
            raise UserError(line)
        self.tell(line)

    def first(self, found: Collection[int]) -> str:
        """Return the target of the first of the items found, shortened."""
        return _short(self.targets[min(found)])

    def right(self, answers: Mapping[int, str]) -> set[int]:
        """Return the items whose answers are right.

        Raises:
            UserError: filters or metric fail for an answer, as they would after a run.
        """
        asked = self._filtered(answers)
        return {i for i in asked if right_or_wrong([self._score(asked[i])]) == [True]}

    def any_right(self, answers: Mapping[int, Texts]) -> set[int]:
        """Return the items of which one of several answers is right."""
        right: set[int] = set()
        for turn in range(max(map(len, answers.values()), default=0)):
            left = {i: t[turn] for i, t in answers.items() if i not in right and turn < len(t)}
            right |= self.right(left)
        return right

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


def _is_too_many(task: Task, found: int) -> bool:
    """Whether items that were found so far, maybe under a limit, are too many of all.

    Local files may be copies of published data, in which a few of many are known to be odd.
    """
    most = 0.01 if is_local(task) else 0.5
    return found >= most * len(task.eval_docs)


def _short(texts: Sequence[Any]) -> str:
    shown = repr(texts[0] if len(texts) == 1 else list(texts))
    return shown if len(shown) <= 80 else f"{shown[:60]}...{shown[-17:]}"
