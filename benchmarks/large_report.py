"""How long the report of 1,000 runs takes, and its size: `python -m benchmarks.large_report`.

The runs are made up (tests/support/made_up_runs.py) and read from disk like published ones.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from benchmarks.record import record
from fastdllm.records.summary import read_summary, write_summary
from fastdllm.report.content import build_report
from fastdllm.report.page import render_page
from fastdllm.report.plot_files import write_plots
from tests.support.made_up_runs import runs

COMMAND = "python -m benchmarks.large_report"
RUNS = 1000


def main() -> None:
    """Measure and record."""
    made_up = runs(repeat=-(-RUNS // len(runs())))[:RUNS]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [folder / str(index) / "summary.json" for index in range(len(made_up))]
        for path, summary in zip(paths, made_up, strict=True):
            write_summary(path, summary)
        started = time.perf_counter()
        report = build_report([read_summary(path) for path in paths], results=folder / "results")
        page = render_page(report)
        plots = write_plots(report, folder / "plots")
        elapsed_s = time.perf_counter() - started
    figures = {
        f"report of {len(made_up):,} runs": f"{elapsed_s:.1f} s, page of "
        f"{len(page.encode()) / 1e6:.1f} MB, {len(plots)} plots"
    }
    record("large_report", command=COMMAND, figures=figures)
    for figure, value in figures.items():
        sys.stdout.write(f"{figure}: {value}\n")


if __name__ == "__main__":
    main()
