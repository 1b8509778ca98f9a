"""`fastdllm speed`, `fastdllm aggregate` and `fastdllm compare` on measured speeds."""

from __future__ import annotations

from typing import Any

import pytest

from fastdllm.cli import main
from fastdllm.common.files import write_json_atomically
from fastdllm.records.summary import Summary, write_summary
from fastdllm.speed.speed_spec import SpeedSpec, sitting_path
from fastdllm.workflow.project.runs import load_project
from fastdllm.workflow.project.speeds import SpeedMeasurement
from tests.statistics.test_comparison import a_run
from tests.support.fakes import fake_sitting


@pytest.fixture
def combined(measurement: SpeedMeasurement, spec: SpeedSpec) -> SpeedMeasurement:
    """A measurement whose sittings are made up and combined."""
    for number in (1, 2, 3):
        sitting = fake_sitting(spec.model_dump(mode="json"), number)
        write_json_atomically(sitting_path(measurement.folder, number), sitting)
    assert main(["speed", str(measurement.spec_path), "--combine"]) == 0
    return measurement


def test_ratios_are_shown_with_how_they_were_measured(
    combined: SpeedMeasurement, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["speed"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == ("trial/sums: seconds per answer over those of t0.02, 95 % intervals")
    assert lines[1] == (
        "  3 processes within 49.0 hours (from 2026-01-01T00:00 UTC), 24 rounds in turn, "
        "a processor with 1 thread, float32"
    )
    row = next(line for line in lines if line.startswith("4      t0.01"))
    assert "0.810 (0.785 to 0.835)" in row and row.endswith("faster")
    assert any("t0.02 again" in line and line.endswith("(check)") for line in lines)
    assert combined.record_path.exists()


def test_what_is_missing_is_named_with_its_command(
    measurement: SpeedMeasurement, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["speed"]) == 0
    shown = capsys.readouterr().out
    assert "trial/sums: missing, 0 of 3 sittings; measure it: snakemake" in shown
    assert not measurement.record_path.exists()


def test_aggregate_publishes_and_status_tells(
    combined: SpeedMeasurement, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status"]) == 0
    assert "0 of 1 measured and published; trial/sums: unpublished" in capsys.readouterr().out
    assert main(["aggregate"]) == 0
    assert f"published {combined.artifact_path}" in capsys.readouterr().out
    assert combined.artifact_path.read_text() == combined.record_path.read_text()
    assert main(["status"]) == 0
    assert "speeds:  1 of 1 measured and published (fastdllm speed)" in capsys.readouterr().out


def test_compare_says_the_ratio_of_what_was_timed_in_turn(
    combined: SpeedMeasurement, a_summary: Summary, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, run in combined.runs.items():
        own: dict[str, Any] = {
            "fingerprint": run.fingerprint,
            "decides": run.decides,
            "task": "sums",
            "computation": run.computation,
        }
        write_summary(run.summary_path, a_run(a_summary, name, 3, **own))
    capsys.readouterr()
    assert main(["compare", "trial/sums/t0.02", "trial/sums/t0.01"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "b takes 0.810 (0.785 to 0.835) of the seconds at batch size 1, faster" in shown
    assert main(["compare", "trial/sums/t0.01", "trial/sums/t0.02"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "b takes 1.235 (1.197 to 1.273) of the seconds at batch size 1, slower" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--combine"], "--sitting and --combine need a spec"),
        (["nothing.json", "--combine"], "nothing.json: no such file; `snakemake -n speed` writes"),
        (["{spec}"], "give either --sitting N or --combine"),
        (["{spec}", "--sitting", "4"], "has sittings 1 to 3"),
        (["{spec}", "--combine"], "sitting-1.json"),
    ],
)
def test_mistakes_are_one_line(
    measurement: SpeedMeasurement,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    typed = [word.format(spec=measurement.spec_path) for word in arguments]
    assert main(["speed", *typed]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.usefixtures("project")
def test_without_speed_in_any_experiment_the_docs_are_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["speed"]) == 2
    assert "docs/speed.md shows what to write there" in capsys.readouterr().err
    assert load_project().experiments["trial"].speed is None
