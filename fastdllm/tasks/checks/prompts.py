"""Prompts that print the answer of their own item, another text in each process, or a repeat."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from fastdllm.common.errors import UserError
from fastdllm.tasks.checks.inspection import MARK, DryRun, emptied, right_answers, where_is

# As Python prints methods, functions and other objects: most with their place in memory.
_OBJECT = re.compile(r"<[^<>]* at 0x[0-9a-fA-F]+>|<(?:bound|built-in) method [^<>]*>")
# A question that stands in the text of all prompts by chance is shorter.
_LONG = 20


def check_prompts(run: DryRun) -> None:
    """Refuse prompts that print an object of Python, or end with the answer of the item asked."""
    task = run.task
    _check_objects(run)
    if task.multiple_input:
        return  # the options are what is asked
    asked = [f"{of['doc_to_text']}{of.get('doc_to_prefix') or ''}" for of in run.printed]
    try:
        empty = str(task.doc_to_text(emptied(run.docs[0])))
    except Exception:  # a helper may want other values
        empty = ""
    _check_fixed_text(run, asked, empty)
    # What scores the items itself knows what the target is; loglikelihood has texts to go on with.
    if task.OUTPUT_TYPE != "loglikelihood" and task.config.process_results is None:
        _check_answers_unprinted(run, asked)
    if task.OUTPUT_TYPE == "multiple_choice" and empty:
        _name_equal_options(run, asked, empty)


def _check_objects(run: DryRun) -> None:
    """Refuse an item whose prompt, examples included, or target prints an object."""
    task, data = run.task, None
    for sample in run.samples:
        for found in _OBJECT.findall(f"{sample['arguments']} {sample['target']}"):
            if data is None:  # which may hold such texts itself
                data = str([*run.docs, *(task.fewshot_docs() if task.config.num_fewshot else ())])
            if found not in data:
                raise UserError(
                    f"{where_is(task, sample['doc_id'])}: a template prints {found!r}, not what it "
                    "gives, and another text in each process; call it, as in {{name.title()}}, or "
                    "make a list of it, as in {{names | list}}"
                )


def _check_answers_unprinted(run: DryRun, asked: Sequence[str]) -> None:
    """Refuse prompts that end with their answers; name a column that they print elsewhere."""
    task, answers = run.task, [right_answers(printed)[0].strip() for printed in run.printed]
    if len(set(answers)) > 1 and all(
        answer and re.search(rf"(?<!\w){re.escape(answer)}[.\s]*$", text)
        for text, answer in zip(asked, answers, strict=True)
    ):
        raise UserError(
            f"{where_is(task, 0)}: its question ends with its answer, {answers[0]!r}, as that of "
            "all items; correct doc_to_text or gen_prefix"
        )
    for column in run.docs[0]:
        marked = {**run.docs[0], column: MARK}
        try:
            target, text = task.doc_to_target(marked), str(task.doc_to_text(marked))
            text += str(task.doc_to_prefix(marked) or "")
        except Exception:  # a template may want another kind of value
            continue
        if str(target).strip() == MARK and MARK in text:
            run.tell(
                f"task {task.task_name!r}: its questions print the column {column!r}, which is the "
                "target as well; correct doc_to_text, unless they show it as one of several options"
            )


def _name_equal_options(run: DryRun, asked: Sequence[str], empty: str) -> None:
    """Name items that show the text of the right option beside another letter as well.

    Published data has some. They are scored as published: only one letter is right.

    empty: the question of an item whose values are all empty texts.
    """
    found = []
    n_asked = len({sample["doc_id"] for sample in run.samples})
    for index, (text, printed) in enumerate(zip(asked[:n_asked], run.printed, strict=False)):
        right = right_answers(printed)[0].strip()
        shown = _shown_options(text, empty, [o.strip() for o in printed["doc_to_choice"]])
        same = [letter for letter, option in shown.items() if option == shown.get(right)]
        if len(same) > 1 and not isinstance(printed["doc_to_target"], list):
            found.append(
                f"{where_is(run.task, index)}: its options {' and '.join(same)} are the same text, "
                f"and only {right} counts as right"
            )
    if found:
        run.tell(f"{found[0]}; {len(found)} of {n_asked} items have such options")


def _shown_options(text: str, empty: str, letters: Sequence[str]) -> dict[str, str]:
    """Return what a question shows beside each letter; nothing if it has no such lines."""
    lines = [
        re.search(rf"^[^\w\n]?{re.escape(letter)}[^\w\n]? *$", empty, re.MULTILINE)
        for letter in letters
    ]
    marks = [line[0].strip() for line in lines if line is not None]
    if lines[-1] is None or len(marks) < len(letters):
        return {}
    after = re.escape(empty[lines[-1].end() :])
    options = "".join(rf"\n{re.escape(mark)}(.*)" for mark in marks)
    found = re.fullmatch(f".*{options}{after}", text, re.DOTALL)
    return dict(zip(letters, map(str.strip, found.groups()), strict=True)) if found else {}


def _check_fixed_text(run: DryRun, asked: Sequence[str], empty: str) -> None:
    """Refuse an item whose question the description, or the template itself, has as an example."""
    fixed = f"{run.printed[0]['description'] or ''}\n{empty}"
    for column in run.docs[0]:
        values = [doc.get(column) for doc in run.docs]
        # What several items share, such as a passage, is no question.
        counts = Counter(value for value in values if isinstance(value, str))
        for index, (value, text) in enumerate(zip(values, asked, strict=True)):
            if not isinstance(value, str) or counts[value] > 1 or value not in text:
                continue
            if len(value) >= _LONG and " " in value.strip() and value.strip() in fixed:
                raise UserError(
                    f"{where_is(run.task, index)}: its column {column!r} stands in description or "
                    "doc_to_text as well, as in an example that gives its answer; take it out of "
                    "one of them"
                )


def check_repeats(run: DryRun, limit: int | None) -> None:
    """Refuse items of which half or more are others again, as from a copy of a file; name fewer.

    All items count for that, whatever the limit: the first two may well be equal. Named are those
    within the limit.
    """
    first: dict[str, int] = {}
    pairs = []
    for index, (doc, printed) in enumerate(zip(run.docs, run.printed, strict=True)):
        # What scores the item itself may look at other columns.
        whole = doc if run.task.config.process_results is not None else None
        asked = repr((whole, printed))
        if asked in first:
            pairs.append((first[asked], index))
        first.setdefault(asked, index)
    n_items = len(run.docs)
    is_refused = 2 * len(pairs) >= n_items
    if not is_refused:
        n_items = min(n_items, limit or n_items)
        pairs = [pair for pair in pairs if max(pair) < n_items]
    if not pairs:
        return
    one, other = (where_is(run.task, index) for index in pairs[0])
    same = f"{other}: has the question, options and target of {one}"
    count = f"{len(pairs)} of {n_items} items are such repeats"
    if is_refused:
        raise UserError(
            f"{same}; {count}, which would count as independent; remove copies of files, or name "
            "the files of data_files one by one"
        )
    run.tell(f"{same}; {count}, and count as independent")


def name_overlaps(dry_runs: Sequence[DryRun]) -> None:
    """Name two tasks of a group that have half or more of the items of one in common."""
    asked = [(run, set(map(repr, run.printed))) for run in dry_runs]
    for (one, of_one), (other, of_other) in combinations(asked, 2):
        n_both = len(of_one & of_other)
        if 2 * n_both >= min(len(of_one), len(of_other)):
            one.tell(
                f"tasks {one.task.task_name!r} and {other.task.task_name!r}: {n_both} items of "
                "both have the same question, options and target, and count twice in the group; "
                "check their data_files"
            )
            return
