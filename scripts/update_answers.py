#!/usr/bin/env python3
"""Write what artifacts/ show into README.md and the READMEs of the experiments.

Each experiment gets its answer; README.md the first sentence of each, and the table of 00_baseline
on word_problems. Run after `fastdllm aggregate`, before committing new artifacts:
scripts/update_answers.py
"""

import contextlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fastdllm.common.errors import UserError  # noqa: E402
from fastdllm.records.claims_record import ClaimsRecord  # noqa: E402
from fastdllm.records.speed_record import SpeedRecord  # noqa: E402
from fastdllm.records.summary import Summary  # noqa: E402
from fastdllm.report.sentences import answer_of, headline  # noqa: E402
from fastdllm.workflow.claim_results import claims_of, published_results  # noqa: E402
from fastdllm.workflow.project import artifacts  # noqa: E402
from fastdllm.workflow.project.runs import load_project  # noqa: E402
from fastdllm.workflow.speed_states import measured_speeds  # noqa: E402

BEGIN = "<!-- answer: begin (scripts/update_answers.py) -->\n"
END = "<!-- answer: end -->"
BEGIN_FINDINGS = "<!-- findings: begin (scripts/update_answers.py) -->\n"
END_FINDINGS = "<!-- findings: end -->"
BEGIN_TABLE = "<!-- table: begin (scripts/update_answers.py) -->\n"
END_TABLE = "<!-- table: end -->"


def published(root: Path) -> tuple[list[Summary], list[SpeedRecord], list[ClaimsRecord]]:
    """The full published runs of the current settings, speeds and claims, in the project's order.

    Raises:
        UserError: a mistake in the project, or tables that do not show these runs.
    """
    with contextlib.chdir(root):
        project, read = load_project(), artifacts.SummaryReader()
        if not artifacts.tables_are_current(project.runs, project.experiments, read):
            raise UserError(
                f"{root}: the tables in artifacts/ are not those of its published runs; write them "
                "with `fastdllm aggregate`"
            )
        current = artifacts.published(project.runs, read)
        summaries = [read(run.artifact_path).summary for run in current]
        claims = claims_of(project, published_results(project, read))
        return summaries, measured_speeds(project, published=True), list(claims.values())


def with_answer(readme: str, answer: str) -> str:
    """The text of an experiment's README with `answer` between its two markers."""
    return _between(readme, BEGIN, answer, END)


def with_findings(
    readme: str,
    summaries: list[Summary],
    speeds: list[SpeedRecord],
    claims: list[ClaimsRecord],
    root: Path,
) -> str:
    """The text of the project's README with a line for each experiment below `root`."""
    lines = []
    for path in experiments(root):
        name = path.parent.name
        found = headline(name, summaries, speeds, claims)
        lines.append(f"- [{name}](experiments/{name}/README.md). {found}\n")
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
    try:
        summaries, speeds, claims = published(ROOT)
    except UserError as error:
        sys.exit(str(error))
    for path in experiments(ROOT):
        answer = answer_of(path.parent.name, summaries, speeds, claims)
        path.write_text(with_answer(path.read_text(encoding="utf-8"), answer), encoding="utf-8")
    readme = ROOT / "README.md"
    text = with_findings(readme.read_text(encoding="utf-8"), summaries, speeds, claims, ROOT)
    readme.write_text(with_table(text, ROOT), encoding="utf-8")


if __name__ == "__main__":
    main()
