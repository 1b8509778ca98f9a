#!/usr/bin/env python3
"""Write what artifacts/ show into README.md and the READMEs of the experiments.

Each experiment gets its answer; README.md the first sentence of each, and the table of 00_baseline
on word_problems. Run after `fastdllm aggregate`, before committing new artifacts:
scripts/update_answers.py
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fastdllm.report.sentences import answer_of, headline  # noqa: E402
from fastdllm.results.summary import Summary, read_summary  # noqa: E402

BEGIN = "<!-- answer: begin (scripts/update_answers.py) -->\n"
END = "<!-- answer: end -->"
BEGIN_FINDINGS = "<!-- findings: begin (scripts/update_answers.py) -->\n"
END_FINDINGS = "<!-- findings: end -->"
BEGIN_TABLE = "<!-- table: begin (scripts/update_answers.py) -->\n"
END_TABLE = "<!-- table: end -->"


def published(root: Path) -> list[Summary]:
    """The full published runs of all experiments, in the order of their folders."""
    paths = sorted((root / "artifacts").glob("*/*/*/summary.json"))
    return [read_summary(path) for path in paths]


def with_answer(readme: str, answer: str) -> str:
    """The text of an experiment's README with `answer` between its two markers."""
    return _between(readme, BEGIN, answer, END)


def with_findings(readme: str, summaries: list[Summary], root: Path) -> str:
    """The text of the project's README with a line for each experiment below `root`."""
    lines = []
    for path in experiments(root):
        name = path.parent.name
        lines.append(f"- [{name}](experiments/{name}/README.md). {headline(name, summaries)}\n")
    return _between(readme, BEGIN_FINDINGS, "".join(lines), END_FINDINGS)


def with_table(readme: str, root: Path) -> str:
    """The text of the project's README with the published table of its first task."""
    table = (root / "artifacts" / "00_baseline" / "table.md").read_text(encoding="utf-8")
    section = table.partition("## word_problems\n\n")[2].partition("\n## ")[0]
    return _between(readme, BEGIN_TABLE, section, END_TABLE)


def experiments(root: Path) -> list[Path]:
    """The READMEs of all experiments that have the markers of an answer."""
    paths = sorted((root / "experiments").glob("[!_.]*/README.md"))
    return [path for path in paths if BEGIN in path.read_text(encoding="utf-8")]


def _between(text: str, begin: str, content: str, end: str) -> str:
    before, rest = text.split(begin)
    return f"{before}{begin}{content}{end}{rest.partition(end)[2]}"


def main() -> None:
    """Renew all READMEs."""
    summaries = published(ROOT)
    for path in experiments(ROOT):
        answer = answer_of(path.parent.name, summaries)
        path.write_text(with_answer(path.read_text(encoding="utf-8"), answer), encoding="utf-8")
    readme = ROOT / "README.md"
    text = with_findings(readme.read_text(encoding="utf-8"), summaries, ROOT)
    readme.write_text(with_table(text, ROOT), encoding="utf-8")


if __name__ == "__main__":
    main()
