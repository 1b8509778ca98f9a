"""Write the data files of the embedded tasks: `python -m training.make_tasks`.

The items are drawn from the held-out split of the generators, each question for one file only; the
same files on every call. They are committed, so nobody needs to run this to evaluate a model.
"""

from __future__ import annotations

import argparse
import bz2
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from fastdllm.common.errors import USER_ERROR_EXIT_CODE, UserError
from fastdllm.common.files import write_bytes_atomically
from training.choices import draw_choice
from training.multi_step import draw_multi_step
from training.problems import Problem, draw_problem

Item = dict[str, Any]


class ItemSet(NamedTuple):
    """A file of items; `packed` ones are compressed."""

    name: str
    count: int
    draw: Callable[[Random], Item]
    packed: bool = False

    @property
    def file_name(self) -> str:
        return f"{self.name}.jsonl" + ".bz2" * self.packed


def draw_sets() -> Iterator[tuple[ItemSet, list[Item]]]:
    """Yield every set with its items; no question is in two sets, or twice in one."""
    taken: set[str] = set()
    for items_of in SETS:
        rng = Random(f"tasks/{items_of.name}")
        items: dict[str, Item] = {}
        while len(items) < items_of.count:
            item = items_of.draw(rng)
            if item["question"] not in taken:
                items.setdefault(item["question"], item)
        taken |= items.keys()
        yield items_of, list(items.values())


def word_item(rng: Random) -> Item:
    """A word problem of one to three steps."""
    return with_steps(draw_problem(rng, held_out=True))


def calibration_item(rng: Random) -> Item:
    """A word problem that no task asks, for `fastdllm sensitivity`."""
    return without_steps(draw_problem(rng, held_out=True))


def multi_step_item(rng: Random) -> Item:
    """A problem of four to eight steps."""
    return with_steps(draw_multi_step(rng, held_out=True))


def choice_item(rng: Random) -> Item:
    """A question, its begun answer, four numbers, and the index of the right one."""
    choice = draw_choice(rng, held_out=True)
    return {
        "question": choice.question,
        "begun": choice.begun,
        "options": list(choice.options),
        "correct": choice.correct,
    }


def without_steps(problem: Problem) -> Item:
    """Question, reasoned answer and result of a problem."""
    return {"question": problem.question, "answer": problem.answer, "result": problem.result}


def with_steps(problem: Problem) -> Item:
    """The same with the number of its calculations."""
    return {**without_steps(problem), "steps": len(problem.calculations)}


# A set leaves out what those before it have; a new one comes last, or files change.
SETS = (
    ItemSet("word_problems", 600, word_item),
    ItemSet("choice_problems", 400, choice_item),
    ItemSet("calibration", 200, calibration_item),
    ItemSet("word_problems_tune", 2_000, word_item),
    ItemSet("word_problems_confirm", 20_000, word_item, packed=True),
    ItemSet("multi_step_problems", 1_000, multi_step_item),
    ItemSet("multi_step_problems_tune", 1_000, multi_step_item),
)


def to_jsonl(items: list[Item]) -> str:
    """One JSON object a line, keys in the order given."""
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)


def write_tasks(folder: Path) -> None:
    """Write all data files into `folder`."""
    for items_of, items in draw_sets():
        content = to_jsonl(items).encode()
        write_bytes_atomically(
            folder / items_of.file_name, bz2.compress(content) if items_of.packed else content
        )


def main() -> int:
    """Parse the command line and write the files."""
    parser = argparse.ArgumentParser(prog="python -m training.make_tasks", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("tasks/data"), help="folder to write")
    try:
        write_tasks(parser.parse_args().out)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return USER_ERROR_EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main())
