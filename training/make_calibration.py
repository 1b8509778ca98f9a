"""Write the calibration items of `fastdllm sensitivity`: `python -m training.make_calibration`.

They are drawn from the held-out split of the generator with a seed of their own, and are no item of
an embedded task: neither training nor testing has seen them. The same file on every call.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from random import Random
from typing import Any

from fastdllm.common.errors import USER_ERROR_EXIT_CODE, UserError
from fastdllm.common.files import write_text_atomically
from training.make_tasks import choice_items, to_jsonl, word_items
from training.problems import draw_problem

ITEMS = 200
SEED = "tasks/calibration"


def calibration_items() -> list[dict[str, Any]]:
    """Question, reasoned answer and result of each item; no question stands there twice."""
    rng = Random(SEED)
    taken = {item["question"] for item in [*word_items(), *choice_items()]}
    items: list[dict[str, Any]] = []
    while len(items) < ITEMS:
        problem = draw_problem(rng, held_out=True)
        if problem.question not in taken:
            taken.add(problem.question)
            items.append(
                {
                    "question": problem.question,
                    "answer": problem.answer,
                    "result": problem.result,
                }
            )
    return items


def main() -> int:
    """Parse the command line and write the file."""
    parser = argparse.ArgumentParser(
        prog="python -m training.make_calibration", description=__doc__
    )
    parser.add_argument(
        "--out", type=Path, default=Path("tasks/data/calibration.jsonl"), help="file to write"
    )
    try:
        write_text_atomically(parser.parse_args().out, to_jsonl(calibration_items()))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return USER_ERROR_EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main())
