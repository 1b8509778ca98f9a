"""Benchmark figures: kept as JSON per machine, shown as one table in benchmarks/README.md."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from fastdllm.common.files import read_json, write_json_atomically, write_text_atomically
from fastdllm.machine.device import hardware

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
BEGIN, END = "<!-- figures: begin (python -m benchmarks.record) -->", "<!-- figures: end -->"


def record(name: str, *, command: str, figures: dict[str, Any]) -> None:
    """Keep the figures of benchmark `name`, measured by `command`, and renew the table."""
    entry = {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "figures": figures,
        "hardware": hardware(torch.device("cpu")),
        "python": platform.python_version(),
    }
    write_json_atomically(FOLDER / "results" / f"{name}.json", entry)
    write_table()


def write_table() -> None:
    """Renew the table in README.md from the files in results/."""
    lines = ["| figure | measured | command | hardware | date |", "|---|---|---|---|---|"]
    for path in sorted((FOLDER / "results").glob("*.json")):
        entry = read_json(path)
        for figure, value in entry["figures"].items():
            cells = (figure, value, f"`{entry['command']}`", entry["hardware"], entry["date"])
            lines.append(f"| {' | '.join(map(str, cells))} |")
    readme = FOLDER / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    after = rest.split(END)[1]
    write_text_atomically(readme, f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}")


if __name__ == "__main__":
    write_table()
