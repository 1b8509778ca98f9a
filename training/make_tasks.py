"""Write the data files of the embedded tasks: `python -m training.make_tasks`.

The items are drawn from the held-out split of the generator, without repetition; the same files on
every call. They are committed, so nobody needs to run this to evaluate a model.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from fastdllm.common.errors import USER_ERROR_EXIT_CODE, UserError
from fastdllm.common.files import write_text_atomically
from training.choices import draw_choice
from training.problems import draw_problem

WORD_ITEMS, CHOICE_ITEMS = 600, 400


def word_items() -> list[dict[str, Any]]:
    """The items of `word_problems`: question, reasoned answer, result, number of steps."""

    def draw(rng: Random) -> dict[str, Any]:
        problem = draw_problem(rng, held_out=True)
        return {
            "question": problem.question,
            "answer": problem.answer,
            "result": problem.result,
            "steps": len(problem.calculations),
        }

    return _draw_items(WORD_ITEMS, "tasks/word_problems", draw)


def choice_items() -> list[dict[str, Any]]:
    """The items of `choice_problems`: question, begun answer, four numbers, index of the right."""

    def draw(rng: Random) -> dict[str, Any]:
        choice = draw_choice(rng, held_out=True)
        return {
            "question": choice.question,
            "begun": choice.begun,
            "options": list(choice.options),
            "correct": choice.correct,
        }

    return _draw_items(CHOICE_ITEMS, "tasks/choice_problems", draw)


def to_jsonl(items: list[dict[str, Any]]) -> str:
    """One JSON object a line, keys in the order given."""
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)


def write_tasks(folder: Path) -> None:
    """Write both data files into `folder`."""
    write_text_atomically(folder / "word_problems.jsonl", to_jsonl(word_items()))
    write_text_atomically(folder / "choice_problems.jsonl", to_jsonl(choice_items()))


def _draw_items(
    count: int, seed: str, draw: Callable[[Random], dict[str, Any]]
) -> list[dict[str, Any]]:
    rng = Random(seed)
    items: dict[str, dict[str, Any]] = {}
    while len(items) < count:
        item = draw(rng)
        items.setdefault(item["question"], item)
    return list(items.values())


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
