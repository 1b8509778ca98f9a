"""The questions decoded for calibration: from a JSON-lines file, and never those of a test."""

from __future__ import annotations

import bz2
import json
from pathlib import Path

from fastdllm.common.errors import UserError
from fastdllm.common.files import cannot

PROJECT_TASKS = Path(__file__).resolve().parents[3] / "tasks" / "data"
CALIBRATION = PROJECT_TASKS / "calibration.jsonl"


def read_questions(path: Path, count: int | None = None) -> list[str]:
    """Return the first `count` questions of a file with a JSON object {"question": ...} per line.

    A file whose name ends in .bz2 is unpacked.

    Raises:
        UserError: the file cannot be read, a line has no question, or there is none at all.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise cannot("read", path, error) from None
    try:
        text = (bz2.decompress(content) if path.suffix == ".bz2" else content).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason})") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be unpacked ({error}); copy the file again") from None
    questions: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        if len(questions) == count:
            break
        questions.append(_question(line, f"{path}, line {number}"))
    if not questions:
        raise UserError(f"{path}: no questions in it; give one JSON object per line")
    return questions


def refuse_test_items(questions: list[str], path: Path, tasks: Path = PROJECT_TASKS) -> None:
    """Refuse questions of an embedded task: a choice made on them cannot be tested on them.

    Raises:
        UserError: naming the file that has them.
    """
    for file in sorted(tasks.glob("*.jsonl*")):
        if file.name == CALIBRATION.name:
            continue
        shared = set(questions) & set(read_questions(file))
        if shared:
            raise UserError(
                f"{path}: {len(shared)} of its questions are test items of {file.name}; a span "
                "chosen on them could not be judged on them, so give other questions"
            )


def _question(line: str, where: str) -> str:
    try:
        item = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not valid JSON ({error})") from None
    question = item.get("question") if isinstance(item, dict) else None
    if not isinstance(question, str) or not question.strip():
        raise UserError(f'{where}: needs a "question" with a text, such as {{"question": "..."}}')
    return question
