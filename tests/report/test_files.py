"""Plots and tables as files, and the command that writes them."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fastdllm.cli import main
from fastdllm.commands.report import gaps
from fastdllm.records.summary import Summary
from fastdllm.report.content import Report, build_report
from fastdllm.report.csv_tables import csv_table
from fastdllm.report.groups import grouped
from fastdllm.report.plot_files import plots, write_plots
from fastdllm.report.standings import Standing
from fastdllm.report.text_tables import markdown_table


def test_every_plot_of_the_page_has_a_name(report: Report) -> None:
    names = [name for name, _ in plots(report)]
    assert len(names) == len(set(names))
    for name in (
        "word_problems_pareto_layer_forwards",
        "word_problems_pareto_layer_forwards_close",
        "word_problems_pareto_seconds_1",
        "word_problems_pareto_seconds_32",
        "word_problems_decoding_04_lookahead",
        "sensitivity_token_changed",
    ):
        assert name in names


def test_plots_are_pictures_and_old_ones_go(report: Report, tmp_path: Path) -> None:
    (tmp_path / "gone_pareto.svg").write_text("<svg/>")
    (tmp_path / "notes.txt").write_text("kept")
    only_one = replace(report, tasks=(), experiments=())
    written = write_plots(only_one, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*(p.name for p in written), "notes.txt"}
    assert len(written) == 6
    for path in written:
        if path.suffix == ".svg":
            root = ElementTree.parse(path).getroot()
            assert root.tag.endswith("svg") and "http" not in path.read_text().split(">", 1)[1]
        else:
            assert path.read_bytes().startswith(b"\x89PNG")


def test_csv_holds_the_comparison_of_every_run(runs: list[Summary]) -> None:
    text = csv_table(grouped(runs))
    rows = {(r["task"], r["experiment"], r["config"]): r for r in csv.DictReader(text.splitlines())}
    assert len(rows) == len(runs)
    row = rows["word_problems", "00_baseline", "k2_first"]
    assert row["baseline"] == "00_baseline/k1_first"
    gained, lost = int(row["gained"]), int(row["lost"])
    assert float(row["difference"]) == pytest.approx((gained - lost) / 600)
    assert float(row["p_corrected"]) < 0.05 and row["verdict"].endswith(", shown")
    twin = rows["word_problems", "00_baseline", "k2_last"]
    assert twin["same_as"] == "00_baseline/k2_first" and twin["verdict"] == row["verdict"]
    plain = rows["word_problems", "00_baseline", "k1_first"]
    assert plain["difference"] == plain["baseline"] == ""


def test_csv_tells_the_control_of_every_run(runs: list[Summary], report: Report) -> None:
    text = csv_table(grouped(runs), report.runs)
    rows = {(r["task"], r["config"]): r for r in csv.DictReader(text.splitlines())}
    for task in report.tasks:
        for run in task.runs:
            row = rows[task.task, run.summary.config]
            if run.summary.passes is None:
                assert row["standing"] == row["control"] == ""
                continue
            assert row["standing"] == str(run.standing)
            assert (row["control"] == "") == (run.finding is None or run.finding.is_control)
            if run.finding is not None and run.finding.gain is not None:
                assert float(row["difference_to_control"]) == run.finding.gain
                proved = run.finding.gain > 0 and float(row["p_corrected_to_control"]) < 0.05
                is_control = run.finding.is_control
                assert (proved and not is_control) == (run.finding.standing is Standing.ABOVE)
    best = rows["word_problems", "d3_t0.95_s4"]
    assert best["control"] == "03_controls/t0.5"
    assert float(best["seconds_1_ratio"]) == pytest.approx(0.81, rel=1e-4)
    assert float(best["seconds_1_ratio_low"]) < 0.8
    assert rows["word_problems", "k2_first"]["seconds_1_ratio"] == ""
    assert "standing" not in csv_table(grouped(runs)).split("\n")[0]


def test_table_of_an_experiment_is_compared_with_a_baseline_of_another(
    runs: list[Summary],
) -> None:
    groups = [group for group in grouped(runs) if group.experiment == "04_lookahead"]
    text = markdown_table("04_lookahead", groups)
    assert "points to 00_baseline/k1_first, paired item by item" in text
    line = next(line for line in text.splitlines() if line.startswith("| d3_t0.95_s4"))
    assert "this row alone" in line or "no difference seen; a loss of more than" in line


def test_a_page_has_a_page_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--output", "report.txt"]) == 2
    assert "report.txt: the name of a page must end in .html" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("missing", "sentences"),
    [(0, []), (1, ["1 run has no published"]), (2, ["2 runs have no published"])],
)
def test_what_a_page_lacks_is_said(report: Report, missing: int, sentences: list[str]) -> None:
    lines = gaps(replace(report, missing=missing))
    assert [line.partition(" result")[0] for line in lines] == sentences


def test_flips_without_samples_are_one_line(runs: list[Summary], tmp_path: Path) -> None:
    (line,) = gaps(build_report(runs, results=tmp_path))
    assert line.startswith("items that flipped are left out in ") and "results/" in line
