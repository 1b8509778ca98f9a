#!/usr/bin/env python3
"""Write what each experiment found into its README, from artifacts/.

Run after `fastdllm aggregate`, before committing new artifacts: scripts/update_answers.py
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fastdllm.evaluation.summary import Summary, read_summary  # noqa: E402
from fastdllm.report.answers import answer_of  # noqa: E402

BEGIN = "<!-- answer: begin (scripts/update_answers.py) -->\n"
END = "<!-- answer: end -->"


def published(root: Path) -> list[Summary]:
    """The full published runs of all experiments, in the order of their folders."""
    paths = sorted((root / "artifacts").glob("[0-9]*/*/*/summary.json"))
    return [read_summary(path) for path in paths]


def with_answer(readme: str, answer: str) -> str:
    """The text of a README with `answer` between its two markers."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}{answer}{END}{rest.partition(END)[2]}"


def main() -> None:
    """Renew every README that has the markers."""
    summaries = published(ROOT)
    for path in sorted((ROOT / "experiments").glob("[0-9]*/README.md")):
        text = path.read_text(encoding="utf-8")
        if BEGIN in text:
            answer = answer_of(path.parent.name, summaries)
            path.write_text(with_answer(text, answer), encoding="utf-8")


if __name__ == "__main__":
    main()
