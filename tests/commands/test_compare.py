"""`fastdllm compare`: names that are found or nearly, and what is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastdllm.cli import main
from fastdllm.records.summary import (
    Git,
    ItemGroup,
    Items,
    SameAs,
    Summary,
    pack_bits,
    read_summary,
    write_summary,
)
from fastdllm.statistics.comparison import compare
from fastdllm.statistics.comparison_text import comparison_text
from fastdllm.statistics.speed_between import speed_sentence
from fastdllm.workflow.project.runs import load_project
from fastdllm.workflow.project.selection import Selection
from tests.statistics.test_comparison import a_run


def stored(a_summary: Summary, config: str, wrong: int, *, limit: int | None = None) -> Path:
    """Give a run of the project a result of its current settings."""
    runs = load_project(Selection(limit=limit)).all_runs
    (run,) = (run for run in runs if run.config == config and run.task == "sums")
    own = {"fingerprint": run.fingerprint, "decides": run.decides, "task": "sums"}
    limited = {} if limit is None else {"limit": limit, "n_items": limit}
    how = {**a_summary.eval_params, **limited}
    write_summary(run.summary_path, a_run(a_summary, config, wrong, eval_params=how, **own))
    return run.summary_path


@pytest.fixture
def two_configs(project: Path) -> None:
    (project / "experiments/trial/experiment.yaml").write_text(
        "title: Trial\nquestion: Does it run?\n"
        'grid: {threshold: [0.9, 0.7]}\nconfig_name: "t{threshold}"\n'
    )


@pytest.mark.usefixtures("two_configs")
def test_runs_are_named_as_their_folders(
    a_summary: Summary, capsys: pytest.CaptureFixture[str]
) -> None:
    stored(a_summary, "t0.9", 20)
    stored(a_summary, "t0.7", 40)
    assert main(["compare", "trial/sums/t0.9", "trial/sums/t0.7"]) == 0
    shown = capsys.readouterr().out
    assert "loss of 10.0 points (95 % interval -14.9 to -6.6), shown" in " ".join(shown.split())
    assert "lost      items 20, 21, 22, 23, 24, 25, 26, 27 and 12 more\n" in shown
    assert "settings  threshold 0.9 -> 0.7\n" in shown


@pytest.mark.usefixtures("two_configs")
def test_several_runs_are_corrected_together(
    a_summary: Summary, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    stored(a_summary, "t0.9", 20)
    decides = read_summary(stored(a_summary, "t0.7", 26)).decides
    write_summary(tmp_path / "x.json", a_run(a_summary, "x", 25, task="sums", decides=decides))
    names = ["trial/sums/t0.9", "trial/sums/t0.7", "trial/sums/t0.7"]
    assert main(["compare", *names]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("p 0.031 (exact McNemar);") == 2, "the same run twice is one question"
    assert main(["compare", *names[:2], str(tmp_path / "x.json")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "p 0.031 (exact McNemar), 0.0" in shown
    assert shown.count("corrected for all comparisons (max-T)") == 2
    assert shown.count("no difference seen") == 0


@pytest.mark.usefixtures("two_configs")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("trail/sums/t0.9", "trail/sums/t0.9: unknown experiment 'trail'; did you mean 'trial'?"),
        ("trial/sum/t0.9", "unknown task 'sum'; did you mean 'sums'? valid: choices, sums"),
        ("trial/sums/t0.8", "unknown config 't0.8'; did you mean 't0.9'? valid: t0.7, t0.9"),
        ("trial/sums", "'trial/sums' is not a run; write experiment/task/config, or the path"),
        ("trial/sums/t0.7", "trial/sums/t0.7: has no result of the current settings; `fastdllm st"),
        ("nothing.json", "cannot read nothing.json: No such file or directory"),
    ],
)
def test_what_is_not_there_is_one_line(
    a_summary: Summary,
    capsys: pytest.CaptureFixture[str],
    name: str,
    message: str,
) -> None:
    stored(a_summary, "t0.9", 20)
    assert main(["compare", "trial/sums/t0.9", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.usefixtures("two_configs")
def test_limited_and_published_results_are_found(
    a_summary: Summary, capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    path = stored(a_summary, "t0.9", 20)
    published = project / "artifacts" / path.relative_to("results")
    published.parent.mkdir(parents=True)
    path.rename(published)
    stored(a_summary, "t0.9", 3, limit=7)
    assert main(["compare", "trial/sums/t0.9", "trial/sums_limit_7/t0.9"]) == 0
    shown = capsys.readouterr().out
    assert "sums (first 7 items)  t0.9" in shown
    assert "accuracy  not compared: different limits: none and 7\n" in shown


def lines_of(a: Summary, b: Summary) -> list[str]:
    comparison = compare(a, b)
    lines = comparison_text(comparison, speed_sentence(comparison, [])).splitlines()
    assert all(len(line) <= 80 for line in lines), max(lines, key=len)
    return lines


def row(lines: list[str], label: str) -> list[str]:
    (line,) = (line for line in lines if line.startswith(label))
    return line.removeprefix(label).split()


def test_figures_of_both_runs(a_summary: Summary) -> None:
    a, b = a_run(a_summary, "a", 20), a_run(a_summary, "b", 40)
    lines = lines_of(a, b.model_copy(update={"truncation_rate": 0.2}))
    assert row(lines, "truncated answers") == ["0", "1"]
    assert row(lines, "layer-forwards per answer") == ["60", "60", "1.00", "x"]
    assert row(lines, "tokens per second") == ["1,234", "1,234"], "no ratio: timed apart"
    assert any("speed     not compared: tokens/s of runs timed apart" in line for line in lines)
    assert row(lines, "accuracy %")[2:] == ["-10.0", "(-14.9", "to", "-6.6)"]


def test_what_was_not_measured_is_empty(a_summary: Summary) -> None:
    absent: dict[str, Any] = dict.fromkeys(("throughput", "passes", "truncation_rate"))
    a, b = (a_run(a_summary, name, 3, **absent) for name in "ab")
    lines = lines_of(a, b)
    assert not any(line.startswith(("layer-forwards", "truncated")) for line in lines)
    assert "speed     nothing is generated in a log-likelihood task" in lines
    assert "accuracy  no item differs; a loss of more than 1.9 points is excluded" in lines
    mixed = lines_of(a_run(a_summary, "a", 3), b)
    assert row(mixed, "tokens per second") == ["1,234"]


def test_copies_and_dirty_trees_are_told(a_summary: Summary) -> None:
    origin = SameAs(experiment="00_baseline", task="t", config="k2_first", fingerprint="k2_first")
    a = a_run(a_summary, "k2_first", 3, git=Git(commit="c" * 40, dirty=True))
    lines = lines_of(a, a_run(a_summary, "k2_last", 3, same_as=origin))
    assert "accuracy  the same computation" in lines
    assert "a         made with uncommitted changes in the project" in lines
    assert "b         decoded as 00_baseline/k2_first, the same computation" in lines


def test_errors_of_groups_are_shown(a_summary: Summary) -> None:
    groups = [ItemGroup("one", 100), ItemGroup("two", 100)]
    a, b = (
        a_run(
            a_summary,
            name,
            0,
            items=Items(
                n=200,
                correct_bits=pack_bits([False] * wrong + [True] * (200 - wrong)),
                groups=groups,
            ),
        )
        for name, wrong in (("a", 0), ("b", 20))
    )
    lines = lines_of(a, b)
    assert row(lines, "  clustered standard error") == ["0.00", "10.00", "10.00"]
    assert "lost      items one:0, one:1, one:2, one:3, one:4, one:5, one:6, one:7 and 12" in lines
