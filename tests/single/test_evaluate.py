"""One evaluation without an experiment is a run like those of the workflow, as command and call."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastdllm import UserError, evaluate, results
from fastdllm.cli import main
from fastdllm.records.summary import read_summary
from fastdllm.single.single_runs import single_run
from fastdllm.tasks.task_source import TaskSource
from fastdllm.workflow.project.digests import FileDigests
from fastdllm.workflow.project.fingerprint_keys import read_task
from tests.support.small_project import edit

SINGLE = Path("results/_single")


def folders(task: str = "sums") -> list[Path]:
    return sorted(path.parent for path in SINGLE.glob(f"{task}/*/summary.json"))


def tokens(folder: Path) -> list[list[int]]:
    lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["token_ids"] for line in lines]


def dates(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.mark.slow
def test_an_evaluation_is_the_run_that_the_workflow_would_make(
    make_spec: Callable[..., Path],
    make_plan_on_disk: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["evaluate", "sums", "--threshold", "0.02", "--batch-size", "2"]
    assert main(command) == 0
    (folder,) = folders()
    assert folder.name.startswith("threshold-0.02-")
    printed = capsys.readouterr().out
    assert any(line.startswith(f"{folder.name} ") for line in printed.splitlines())

    make_plan_on_disk("sums")
    spec = make_spec("sums", threshold=0.02)
    assert main(["eval", str(spec)]) == 0
    assert tokens(folder) == tokens(spec.parent)
    single, of_workflow = (read_summary(path / "summary.json") for path in (folder, spec.parent))
    assert single.metrics == of_workflow.metrics
    assert single.eval_params["batch_size"] == 2
    identity = read_task(TaskSource.named("sums"), FileDigests())
    assert single.eval_params["task_definition"] == identity.definition

    before = dates(folder)
    capsys.readouterr()
    assert main(command) == 0
    assert "already done" in capsys.readouterr().out
    assert dates(folder) == before

    # As after a kill in the second chunk.
    answers = folder / "answers.jsonl"
    lines, earlier = answers.read_bytes().splitlines(keepends=True), tokens(folder)
    is_chunk = [b'"chunk"' in line for line in lines]
    kept = lines[: is_chunk.index(True) + 1]
    answers.write_bytes(b"".join(kept) + lines[len(kept)][:20])
    for name in ("summary.json", "samples.jsonl", "results.json"):
        (folder / name).unlink()
    assert main(command) == 0
    assert answers.read_bytes().startswith(b"".join(kept))
    assert tokens(folder) == earlier
    assert read_summary(folder / "summary.json").resumed

    (requests,) = SINGLE.glob("_plans/*/requests.jsonl")
    planned = requests.read_bytes()
    requests.write_bytes(planned[:-9])
    assert main(["evaluate", "sums", "--threshold", "0.5"]) == 0
    assert requests.read_bytes() == planned
    assert len(folders()) == 2
    assert dates(folder)["samples.jsonl"] == dates(folders()[0])["samples.jsonl"]


@pytest.mark.slow
@pytest.mark.usefixtures("project")
def test_a_call_returns_the_summary_and_shows_a_bar(capfd: pytest.CaptureFixture[str]) -> None:
    summary = evaluate("choices", limit=5, device="cpu")
    assert f" {summary.n_requests}/{summary.n_requests} " in capfd.readouterr().err
    (folder,) = folders("choices_limit_5")
    assert summary == read_summary(folder / "summary.json")
    assert str(summary) == repr(summary)
    assert repr(summary).startswith("<Summary _single/choices (first 5 items)/default-")
    before = dates(folder)
    assert evaluate("choices", limit=5) == summary
    assert "already done" in capfd.readouterr().err
    assert dates(folder) == before
    with pytest.raises(UserError, match=r"^[^\n]*cuda:99[^\n]*$"):
        evaluate("choices", limit=5, device="cuda:99", again=True, progress=False)
    assert capfd.readouterr().err == ""

    runs, items = results(task="choices"), results("items", experiment="_single")
    assert runs.loc[0, ["config", "limit", "n_items"]].tolist() == [summary.config, 5, 5]
    assert items["item"].tolist() == list(range(5))
    assert items["correct"].mean() == summary.accuracy


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"decoding": {"treshold": 1}}, "did you mean 'threshold'"),
        ({"decoding": {"threshold": 2}}, "options: threshold: 2 is not allowed"),
        ({"decoding": {"max_new_tokens": 9}}, "max_new_tokens has no effect on task 'sums'"),
        ({"decoding": {"reuse_k": 2}}, "needs layer_subset"),
        ({"limit": 0}, "limit 0 is not allowed"),
        ({"limit": True}, "limit True is not allowed"),
        ({"options": {"batch_size": 0}}, "batch_size: 0 is not allowed"),
        ({"options": {"num_fewshot": -1}}, "num_fewshot: -1 is not allowed"),
        ({"options": {"data": "there"}}, "has no effect on task 'sums'"),
        ({"model": {"path": "none"}}, "model 'none': no such folder"),
        ({"model": {"dtype": "int8"}}, "dtype: 'int8' is not allowed"),
        ({"task": "sum"}, "did you mean 'sums'"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_written(
    options: dict[str, Any], says: str
) -> None:
    wished = {"task": "sums", "limit": None, "model": {}, "options": {}, "decoding": {}}
    with pytest.raises(UserError, match=says) as raised:
        single_run(**{**wished, **options})
    assert "\n" not in str(raised.value)
    assert raised.value._render_traceback_() == [f"UserError: {raised.value}"]  # in IPython
    assert not SINGLE.exists()


@pytest.mark.usefixtures("project")
def test_the_name_of_a_run_tells_settings_apart_and_not_how_they_were_given() -> None:
    def name(task: str = "sums", limit: int | None = None, **decoding: Any) -> Path:
        wished = {"limit": limit, "model": {}, "options": {}, "decoding": decoding}
        return single_run(task, **wished).run.folder

    assert name() == name(threshold=0.9) == name(threshold="0.9")
    different = [
        *(name(), name(threshold=0.8), name(limit=3), name(task="choices")),
        *(name(reuse_k=2, layer_subset="first"), name(reuse_k=2, layer_subset=[0, 2])),
        name(seed=1),
    ]
    assert len(set(different)) == len(different)
    before = name()
    edit("workflow_config.yaml", "bootstrap_iters", "decoding: {threshold: 0.8}\nbootstrap_iters")
    assert name() == different[1] != before
    # A task's own limit of an answer wins.
    edit("workflow_config.yaml", "{threshold: 0.8}", "{max_new_tokens: 9}")
    assert name().name.startswith("default-")
    assert name(task="choices").name.startswith("max_new_tokens-9-")
    edit("tasks/data/sums.jsonl", "What is 4", "What was 4")
    assert name(threshold=0.9) != before


@pytest.mark.slow
def test_the_package_is_imported_without_what_is_heavy() -> None:
    code = """
import sys
import fastdllm
from fastdllm import DecodingSettings, Policy, UserError, evaluate, results
heavy = {"torch", "lm_eval", "datasets", "transformers", "gradio", "pandas"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert callable(evaluate) and callable(results)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
