"""`fastdllm estimate` in a project: a limited run gives the pace; a mistake is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastdllm.cli import main
from fastdllm.tools.estimate.nearest import Basis
from fastdllm.workflow.project.runs import load_project
from fastdllm.workflow.project.selection import Selection

ROOT = Path(__file__).parents[2]


@pytest.mark.usefixtures("project")
# Eight documents with three options each.
@pytest.mark.parametrize(("task", "items"), [("sums", 10), ("choices", 24)])
def test_a_limited_run_of_a_real_model_gives_the_pace_of_the_whole_run(
    task: str, items: int, capsys: pytest.CaptureFixture[str]
) -> None:
    limited = load_project(Selection(tasks=(task,), limit=4)).runs[0]
    limited.spec_path.parent.mkdir(parents=True)
    limited.spec_path.write_text(json.dumps(limited.spec()))
    for arguments in (["--task", task], ["--task", task, "--limit", "4"]):
        assert main(["plan", *arguments]) == 0
    assert main(["eval", str(limited.spec_path)]) == 0
    capsys.readouterr()
    assert main(["estimate", "--task", task, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    (run,) = record["runs"]
    assert (run["source"], run["items_left"]) == (Basis.SETTINGS.value, items)
    summary = json.loads(limited.summary_path.read_text())
    per_item = summary["decoding_s"] / summary["eval_params"]["n_requests"]
    assert run["decoding_s"] == pytest.approx(items * per_item)
    assert run["minutes_to_ask_for"] == 10


@pytest.mark.usefixtures("project")
def test_what_is_not_known_is_said_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "--task", "sums", "--gpu", "H100"]) == 0
    out = capsys.readouterr().out
    assert "sums: not planned yet; type: fastdllm plan --task sums" in out
    assert "nothing measured on H100: trial/sums (1)" in out
    assert "snakemake --profile profiles/pace --config limit=20 gpu=H100" in out


@pytest.mark.usefixtures("project")
def test_the_gpu_of_a_profile_is_the_one_that_its_jobs_ask_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["estimate", "--profile", str(ROOT / "profiles/pace"), "--task", "sums"]) == 0
    out = capsys.readouterr().out
    assert "nothing measured on RTX_6000: trial/sums (1)" in out
    assert f"snakemake --profile {ROOT / 'profiles/pace'} --config limit=20 gpu=RTX_6000" in out


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "profiles/pac"], "--profile profiles/pac: has no site.yaml"),
        (["--profile", "profiles/pace", "--gpu", "V100"], "--profile: says which GPU, as does"),
        (["--jobs", "0"], "'0' is not allowed"),
        (["--probe"], "unknown argument --probe; did you mean --profile?"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["estimate", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
