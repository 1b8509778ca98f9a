"""Items that are there twice, as from a copy of a data file, or are not all there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

from lm_eval.api.task import ConfigurableTask, Task

from fastdllm.common.errors import UserError
from fastdllm.tasks.checks.items import where_is
from fastdllm.tasks.lm_eval_tasks import LoadedTask


def check_number(task: LoadedTask, tell: Callable[[str], None]) -> None:
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


def check_repeats(
    task: Task,
    texts: Sequence[Mapping[str, Any]],
    tell: Callable[[str], None],
    limit: int | None = None,
) -> None:
    """Refuse items of which half or more are others again, as from a copy of a file; name fewer.

    All items count for that, whatever the limit: the first two may well be equal. Named are those
    within the limit.

    texts: what each item prints.
    tell: is given the line that names fewer.

    Raises:
        UserError: naming the first such pair.
    """
    if not isinstance(task, ConfigurableTask):
        return
    first: dict[str, int] = {}
    pairs = []
    for index, (doc, printed) in enumerate(zip(task.eval_docs, texts, strict=True)):
        # What scores the item itself may look at other columns.
        whole = doc if task.config.process_results is not None else None
        asked = repr((whole, printed))
        if asked in first:
            pairs.append((first[asked], index))
        first.setdefault(asked, index)
    n_items = len(task.eval_docs)
    is_refused = 2 * len(pairs) >= n_items
    if not is_refused:
        n_items = min(n_items, limit or n_items)
        pairs = [pair for pair in pairs if max(pair) < n_items]
    if not pairs:
        return
    one, other = (where_is(task, index) for index in pairs[0])
    same = f"{other}: has the question, options and target of {one}"
    count = f"{len(pairs)} of {n_items} items are such repeats"
    if is_refused:
        raise UserError(
            f"{same}; {count}, which would count as independent; remove copies of files, or name "
            "the files of data_files one by one"
        )
    tell(f"{same}; {count}, and count as independent")


def check_overlaps(
    texts: Mapping[str, Sequence[Mapping[str, Any]]], tell: Callable[[str], None]
) -> None:
    """Name two tasks of a group of which one asks half or more of its items in the other as well.

    texts: what each item prints, by task.
    """
    asked = {name: set(map(repr, of_task)) for name, of_task in texts.items()}
    for one, other in combinations(asked, 2):
        n_both = len(asked[one] & asked[other])
        if 2 * n_both >= min(len(asked[one]), len(asked[other])):
            tell(
                f"tasks {one!r} and {other!r}: {n_both} items of both have the same question, "
                "options and target, and count twice in the group; check their data_files"
            )
            return
