"""Items that are there twice, as from a copy of a data file."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from fastdllm.common.errors import UserError
from fastdllm.tasks.checks.inspection import DryRun, where_is


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


def name_overlaps(runs: Sequence[DryRun]) -> None:
    """Name two tasks of a group that have half or more of the items of one in common."""
    asked = [(run, set(map(repr, run.printed))) for run in runs]
    for (one, of_one), (other, of_other) in combinations(asked, 2):
        n_both = len(of_one & of_other)
        if 2 * n_both >= min(len(of_one), len(of_other)):
            one.tell(
                f"tasks {one.task.task_name!r} and {other.task.task_name!r}: {n_both} items of "
                "both have the same question, options and target, and count twice in the group; "
                "check their data_files"
            )
            return
